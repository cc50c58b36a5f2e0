"""The training of one run: the loop, its checks and its records."""
