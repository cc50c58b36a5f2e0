"""Coherent dispatch by pair moves and exchanges, with kicks: the default search."""

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.coherent import best_bound
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.solver.annealing import Annealing
from moe.placement.solver.chains import best_sweep
from moe.placement.solver.protocol import Assignment
from moe.placement.solver.sweep import descent_within
from moe.placement.topology import Topology

KICKS = 1_000
WORK = 3 * 10**9  # a second or two for 64 experts; small problems run out of kicks first


def solve_pair(
    statistics: RoutingStatistics,
    topology: Topology,
    *,
    seed: int,
    limits: NDArray[np.float64] | None = None,
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
