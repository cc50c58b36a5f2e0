"""A training step from a model's shape: its settings, its arithmetic, its collectives in order, and their layout."""
