"""The training of one run: the loop, and what watches over it."""
