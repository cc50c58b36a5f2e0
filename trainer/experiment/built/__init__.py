"""Objects that trained policies build: the sample verb, and the measuring of true objectives."""
