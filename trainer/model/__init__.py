"""The networks: one file each, what they are made of, and how a run builds and loads one."""
