"""Chakra execution traces: one file a rank, nodes of computation and communication with their dependencies."""
