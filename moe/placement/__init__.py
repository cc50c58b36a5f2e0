"""Placement of experts on ranks: the placement file, its cost, and the solvers that minimise the cost."""

from moe.placement.placement import Placement

__all__ = ["Placement"]
