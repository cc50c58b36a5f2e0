"""What a placement does to the traffic, in the numbers that tables and reports show."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe.placement.objective import OBJECTIVES
from moe.placement.placement import Dispatch
from moe.placement.statistics import RoutingStatistics
from moe.placement.topology import Topology


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Traffic under one placement in one dispatch mode.

    Attributes:
        expert_ranks: The placement as rank of each expert, [L, E].
        cost_by_layer: Cost per token by layer, [L].
        cross_rank: Share of the moves that end on another rank, 0 to 1.
        cross_node: Share of the moves that end on another node, 0 to 1.
        rank_loads: Kept choices that each rank computes, [L, G].
    """

    expert_ranks: NDArray[np.int64]
    cost_by_layer: NDArray[np.float64]
    cross_rank: float
    cross_node: float
    rank_loads: NDArray[np.int64]

    @property
    def cost(self) -> float:
        """Cost per token."""
        return float(self.cost_by_layer.sum())

    @property
    def imbalance(self) -> NDArray[np.float64]:
        """Load of the busiest rank over the mean load, by layer, [L]; 1 is perfect balance."""
        return self.rank_loads.max(axis=1) / np.maximum(self.rank_loads.mean(axis=1), 1e-300)


def evaluate(
    statistics: RoutingStatistics, topology: Topology, expert_ranks: NDArray[np.int64], dispatch: Dispatch
) -> Evaluation:
    """Measure a placement on the counts of a trace, be it the one that it was made from or another.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks and what a move between them costs.
        expert_ranks: Rank of each expert, [L, E].
        dispatch: Dispatch mode that moves the tokens.

    Returns:
        The traffic.
    """
    price = OBJECTIVES[dispatch]
    moves = max(price(statistics, expert_ranks, np.ones_like(topology.cost)).sum(), 1)
    return Evaluation(
        expert_ranks,
        price(statistics, expert_ranks, topology.cost) / statistics.num_tokens,
        float(price(statistics, expert_ranks, topology.off_rank).sum() / moves),
        float(price(statistics, expert_ranks, topology.off_node).sum() / moves),
        np.stack(
            [
                np.bincount(ranks, weights=loads, minlength=topology.num_ranks).astype(np.int64)
                for ranks, loads in zip(expert_ranks, statistics.loads, strict=True)
            ]
        ),
    )
