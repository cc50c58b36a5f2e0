"""What searched grids of times are worth, in figures and on a page."""
