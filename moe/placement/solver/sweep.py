"""Coherent dispatch by chain and sweep: each layer's exact best response to its neighbours, until no layer gains.

Shape legend: L MoE layers, E experts per layer.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.coherent import quick_bound
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.solver.annealing import Annealing
from moe.placement.solver.chains import best_sweep
from moe.placement.solver.descent import Descent
from moe.placement.solver.feasible import start_within
from moe.placement.solver.protocol import Assignment
from moe.placement.topology import Topology


def solve_sweep(
    statistics: RoutingStatistics,
    topology: Topology,
    *,
    seed: int,
    limits: NDArray[np.float64] | None = None,
) -> Assignment:
    """Minimise the coherent cost by coordinate descent; a `PlacementSolver`.

    The chain keeps one layer and assigns each further layer given the one before it, which is optimal for one expert
    a rank and one level of cost. Sweeps then assign each layer again given all others; a step that does not gain is
    not taken, so the cost never rises. With several choices a token, exchanges of experts then lower the cost of moves
    and copies together.
    """
    generator = np.random.default_rng(seed)
    descent, start = descent_within(statistics, topology, limits)
    ranks = best_sweep(descent, generator, start)
    if statistics.visits is not None:
        annealing = Annealing(statistics, topology, limits)
        ranks = min(annealing.descend(start), annealing.descend(ranks), key=annealing.cost)
    return Assignment(ranks, quick_bound(statistics, topology))


def descent_within(
    statistics: RoutingStatistics, topology: Topology, limits: NDArray[np.float64] | None
) -> tuple[Descent, NDArray[np.int64]]:
    """Prepare the descent of first choices.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks and what a move between them costs.
        limits: Most choices that a rank may compute, [L]; None for no limit.

    Returns:
        The descent, and an assignment within the limits, [L, E]: the contiguous one where it keeps them.
    """
    start = start_within(statistics.loads, topology.num_ranks, limits)
    return Descent(statistics.transitions, statistics.jumps, topology.cost, statistics.loads, limits), start
