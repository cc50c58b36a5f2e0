"""Pairs of states in files of fixed size: writing, indexing and reading them."""
