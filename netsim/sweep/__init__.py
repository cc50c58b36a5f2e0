"""Sweeps over many scenarios: their cells, the processes that simulate them, and the folder of results."""
