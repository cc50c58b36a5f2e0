"""Tasks that draw examples from their own network, and learn from what these are worth."""
