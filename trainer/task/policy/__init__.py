"""Tasks that draw examples from their own network and learn from the examples' rewards."""
