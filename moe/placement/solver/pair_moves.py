"""Coherent dispatch by pair moves: the experts of two ranks divided anew in all layers at once, and kicks."""

import numpy as np

from moe.placement.bound.coherent import best_bound
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.solver.descent import Descent
from moe.placement.solver.protocol import Assignment
from moe.placement.solver.sweep import best_sweep
from moe.placement.topology import Topology

KICKS = 1_000
WORK = 8 * 10**9  # some seconds for 64 experts; small problems run out of kicks first


def solve_pair(statistics: RoutingStatistics, topology: Topology, *, seed: int) -> Assignment:
    """Minimise the coherent cost by sweeps, re-splits of two ranks and kicks; a `PlacementSolver`.

    The limits are counts of steps, not times, so that the answer does not depend on the machine.
    """
    generator = np.random.default_rng(seed)
    descent = Descent(statistics.transitions, statistics.jumps, topology.cost)
    ranks = descent.search(best_sweep(descent, generator), kicks=KICKS, work=WORK, generator=generator)
    return Assignment(ranks, best_bound(statistics, topology))
