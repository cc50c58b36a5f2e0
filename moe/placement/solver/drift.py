"""Drift: whether a placement still fits the traffic, by its excess cost and by the change of the routing.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.objective import OBJECTIVES
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.solver.solve import SOLVERS
from moe.placement.solver.swaps import search_layers
from moe.placement.topology import Topology

_FAST_SOLVERS: dict[Dispatch, str] = {"coherent": "sweep", "home": "assignment"}


@dataclass(frozen=True, eq=False)
class Drift:
    """A placement compared with a fresh one on a window of traffic.

    Attributes:
        current_cost: Cost per token of the placement on the window.
        fresh_cost: Cost per token of a placement made for the window, or of this one where that is cheaper.
        fresh_ranks: That placement as rank of each expert, [L, E].
    """

    current_cost: float
    fresh_cost: float
    fresh_ranks: NDArray[np.int64]

    @property
    def regret(self) -> float:
        """current_cost / fresh_cost - 1, the relative excess cost; infinite if the fresh placement costs nothing."""
        if not self.fresh_cost:
            return 0.0 if not self.current_cost else float("inf")
        return self.current_cost / self.fresh_cost - 1


def measure_drift(
    window: RoutingStatistics,
    topology: Topology,
    current_ranks: NDArray[np.int64],
    objective: Dispatch,
    *,
    seed: int = 0,
) -> Drift:
    """Compare a placement with a fresh one on new traffic.

    Args:
        window: Counts of the new traffic.
        topology: Ranks and what a move between them costs.
        current_ranks: The placement in use, rank of each expert, [L, E].
        objective: Dispatch mode that moves the tokens.
        seed: Seed of the fast solver.

    Returns:
        Both costs and the fresh placement; the regret is at least 0.
    """
    cost = OBJECTIVES[objective]
    if objective in ("copies", "hierarchical"):
        fresh = search_layers(window, topology, objective, seed=seed)
    else:
        fresh = SOLVERS[objective][_FAST_SOLVERS[objective]](window, topology, seed=seed).expert_ranks
    current_total, fresh_total = (
        float(cost(window, ranks, topology.cost, topology.num_nodes).sum()) for ranks in (current_ranks, fresh)
    )
    if fresh_total >= current_total:
        fresh, fresh_total = current_ranks, current_total
    return Drift(current_total / window.num_tokens, fresh_total / window.num_tokens, fresh)


def routing_distance(earlier: RoutingStatistics, window: RoutingStatistics) -> NDArray[np.float64]:
    """Distance between the routing of two windows: total variation of the pairs of consecutive experts.

    The distance of two windows of the same routing is not 0 but, by chance, about
    sqrt(pairs in use / (pi * tokens)).

    Args:
        earlier: Counts of one window.
        window: Counts of the other.

    Returns:
        One number a gap, [L-1]: 0 for equal shares, 1 for none in common.
    """
    shares = [
        counts.transitions / np.maximum(counts.transitions.sum(axis=(1, 2), keepdims=True), 1)
        for counts in (earlier, window)
    ]
    return np.abs(shares[0] - shares[1]).sum(axis=(1, 2)) / 2


def load_distance(earlier: RoutingStatistics, window: RoutingStatistics) -> NDArray[np.float64]:
    """Distance between the loads of two windows: total variation of the experts' shares.

    Args:
        earlier: Counts of one window.
        window: Counts of the other.

    Returns:
        One number a layer, [L]: the share of the choices that went to other experts.
    """
    shares = [counts.loads / np.maximum(counts.loads.sum(axis=1, keepdims=True), 1) for counts in (earlier, window)]
    return np.abs(shares[0] - shares[1]).sum(axis=1) / 2
