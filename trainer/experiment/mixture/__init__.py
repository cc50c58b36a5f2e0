"""Shares of the sources of a mixture, picked by small pilots and what they project to."""
