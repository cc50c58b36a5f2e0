"""Fitting a path to the data of a run."""
