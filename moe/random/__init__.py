"""Random numbers that are a function of a key: seeds by purpose, and counter-based draws."""
