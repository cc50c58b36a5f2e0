"""Linear operators, from images to what is observed of them."""
