"""A user's files, written as a folder of shards."""
