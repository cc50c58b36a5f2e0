"""The report of a placement: one page that stands alone."""
