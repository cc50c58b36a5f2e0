"""Flow-level engine: max-min fair rates, compiled."""

from netsim.engine.fluid.engine import FluidEngine

__all__ = ["FluidEngine"]
