"""Flow-level engine: max-min fair rates, compiled."""
