"""A rank as a process of its system: how it is stopped, ends with its launcher, and tells what it does."""
