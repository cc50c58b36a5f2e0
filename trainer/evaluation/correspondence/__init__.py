"""Correspondences between surfaces: how they are found from features, how far they are off, and a page."""
