"""Counts of a routing trace: what solvers, costs and bounds read instead of tokens."""
