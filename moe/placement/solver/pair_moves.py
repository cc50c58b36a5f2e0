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

    A re-split divides the experts of two ranks anew in all layers at once, by the moves of first choices. With several
    choices a token, annealed exchanges then lower the cost of moves and copies together. The limits are counts of
    steps, not times, so that the answer does not depend on the machine.
    """
    generator = np.random.default_rng(seed)
    descent, start = descent_within(statistics, topology, limits)
    ranks = best_sweep(descent, generator, start)
    if statistics.visits is None:
        ranks = descent.search(ranks, kicks=KICKS, work=WORK, generator=generator)
    else:
        ranks = Annealing(statistics, topology, limits).search(ranks, work=WORK // 3, generator=generator)
    return Assignment(ranks, best_bound(statistics, topology, limits))
