"""Progress of a long sweep while it runs."""
