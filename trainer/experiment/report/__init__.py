"""One page about a run, its placement and its simulation."""
