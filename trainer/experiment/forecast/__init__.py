"""A step before anything is started: the collectives that it issues, the memory of a rank, and what fits."""
