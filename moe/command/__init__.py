"""The verbs of `python -m moe`, one file each."""
