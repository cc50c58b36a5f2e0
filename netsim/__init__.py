"""Predicts what a network does with the traffic of distributed training."""

from netsim.results import Results
from netsim.simulate import simulate

__all__ = ["Results", "simulate"]
