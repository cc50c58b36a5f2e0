"""WebDataset tar files: the positions of their contents, and how their bytes are read."""
