"""Measured collectives: what they cost by size and ranks, with intervals, and how far off a prediction is."""
