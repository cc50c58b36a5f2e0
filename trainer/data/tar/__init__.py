"""WebDataset tar files: what lies where in them, and how their bytes are read."""
