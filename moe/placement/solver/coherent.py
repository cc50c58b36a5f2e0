"""Searches for coherent dispatch: by sweeps, and by pair moves with kicks.

A sweep is each layer's exact best response to its neighbours, until no layer gains.

Shape legend: L MoE layers, E experts per layer.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.coherent import best_bound, quick_bound
from moe.placement.counts import RoutingStatistics
from moe.placement.ranks import contiguous_ranks
from moe.placement.solver.descent import Annealing, Descent
from moe.placement.solver.load_limits import start_within
from moe.placement.solver.protocol import Assignment
from moe.placement.topology import Topology

_RANDOM_CHAINS = 6
KICKS = 1_000
WORK = 3 * 10**9  # a second or two for 64 experts; small problems run out of kicks first


def best_sweep(
    descent: Descent, generator: np.random.Generator, start: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Sweep from one assignment and from chains that begin with its first layer, its ranks and experts drawn anew.

    The start, [L, E], keeps the limits of the descent; by default it is the contiguous one. The result is the cheapest
    assignment, never of higher cost than the start.
    """
    if start is None:
        start = contiguous_ranks(descent.num_layers, descent.num_experts, descent.num_ranks)
    starts = [start, descent.chain(start)]
    for _ in range(_RANDOM_CHAINS):
        drawn = start.copy()
        drawn[0] = generator.permutation(start[0])
        starts.append(descent.chain(descent.within_limits(drawn, start)))
    return min((descent.sweep(ranks) for ranks in starts), key=descent.cost)


def solve_sweep(
    statistics: RoutingStatistics, topology: Topology, *, seed: int, limits: NDArray[np.float64] | None = None
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
    """Descent of first choices, and an assignment within the limits, [L, E]: contiguous where that keeps them."""
    start = start_within(statistics.loads, topology.num_ranks, limits)
    return Descent(statistics.transitions, statistics.jumps, topology.cost, statistics.loads, limits), start


def solve_pair(
    statistics: RoutingStatistics, topology: Topology, *, seed: int, limits: NDArray[np.float64] | None = None
) -> Assignment:
    """Minimise the coherent cost by sweeps, re-splits of two ranks, exchanges and kicks; a `PlacementSolver`.

    A re-split divides the experts of two ranks anew in all layers at once, by the moves of first choices. Annealed
    exchanges price moves and copies together, where a token has several choices, and keep to limits. The search ends
    after a number of steps, not of seconds, so that the answer does not depend on the machine.
    """
    generator = np.random.default_rng(seed)
    descent, start = descent_within(statistics, topology, limits)
    ranks = best_sweep(descent, generator, start)
    if statistics.visits is not None or limits is not None:
        ranks = Annealing(statistics, topology, limits).search(ranks, work=WORK // 3, generator=generator)
    if statistics.visits is None:
        ranks = descent.search(ranks, kicks=KICKS, work=WORK, generator=generator)
    return Assignment(ranks, best_bound(statistics, topology, limits))
