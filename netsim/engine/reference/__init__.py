"""The reference engine, on simpy: the plainest statement of what a run is."""
