"""Where the experts live: the placement file, what a placement costs, and the solvers that make it cheap."""

from moe.placement.placement import Placement
from moe.placement.protocol import Assignment, PlacementSolver
from moe.placement.solve import solve

__all__ = ["Assignment", "Placement", "PlacementSolver", "solve"]
