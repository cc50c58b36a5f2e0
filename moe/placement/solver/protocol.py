"""The protocol of a placement solver."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moe.placement.counts import RoutingStatistics
from moe.placement.topology import Topology


@dataclass(frozen=True, eq=False)
class Assignment:
    """A balanced assignment of experts to ranks, int64 [L, E], and a lower bound on the cost of all tokens."""

    expert_ranks: NDArray[np.int64]
    lower_bound: float


class PlacementSolver(Protocol):
    """Searches for a balanced assignment of low cost in one dispatch mode."""

    def __call__(
        self, statistics: RoutingStatistics, topology: Topology, *, seed: int, limits: NDArray[np.float64] | None = None
    ) -> Assignment:
        """Solve.

        Args:
            statistics: Counts of the routing trace.
            topology: Ranks and what a move between them costs.
            seed: Seed of all random draws; the same input and seed give the same answer.
            limits: Most choices that any rank may compute, by layer [L], which some balanced assignment keeps; None
                for no limit.

        Returns:
            The assignment, which keeps the limits; the driver replaces it by the contiguous one if that is as cheap
            and keeps them too.

        Raises:
            ValueError: The experts do not divide among the ranks, or the counts lack what the objective needs.
        """
        ...
