"""The report of a placement: one self-contained page."""
