"""Collective traces: recorded from a run, or computed for a run that has not happened."""
