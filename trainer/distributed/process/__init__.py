"""A rank as a process of the operating system: signals, its launcher, its folder, and dumps of what it is doing."""
