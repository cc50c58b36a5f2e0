"""Placement of experts on ranks: the placement file, its cost, and the solvers that minimise the cost."""

from moe.placement.placement import Placement
from moe.placement.protocol import Assignment, PlacementSolver
from moe.placement.solve import solve

__all__ = ["Assignment", "Placement", "PlacementSolver", "solve"]
