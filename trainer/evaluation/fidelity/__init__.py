"""Distances of samples from real examples on the features of a network: FID, precision and recall, at any size."""
