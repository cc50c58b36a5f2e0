"""How near samples come to real examples on the features of a network: FID, precision and recall, at any size."""
