"""Tasks that draw from their own network and learn from what they drew."""
