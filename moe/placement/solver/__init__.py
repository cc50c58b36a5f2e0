"""Searches for placements of low cost."""
