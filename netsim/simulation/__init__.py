"""A simulation from its scenario to its results."""
