"""The networks, one file each, their parts, and how a run builds and loads a network."""
