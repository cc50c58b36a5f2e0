"""The pairs verb: what is asked for, how a shard of pairs is drawn, and how the ranks share the shards."""
