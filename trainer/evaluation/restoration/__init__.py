"""What restored pictures are worth, in figures and on a page."""
