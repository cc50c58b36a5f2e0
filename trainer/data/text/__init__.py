"""A user's text as tokens in memory-mapped shards: reading it, encoding it, and windows of it."""
