"""What edits are worth: how far they are from the picture, whether they are of the class, and what they cost."""
