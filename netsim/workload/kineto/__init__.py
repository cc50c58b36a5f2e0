"""Profiles of torch, as Kineto writes them, turned into a collective trace."""
