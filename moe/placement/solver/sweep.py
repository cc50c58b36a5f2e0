"""Coherent dispatch by chain and sweep: each layer's exact best response to its neighbours, until no layer gains.

Shape legend: L MoE layers, E experts per layer.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.coherent import degree_bound
from moe.placement.contiguous import contiguous_ranks
from moe.placement.counts.layer_counts import layer_pairs
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.solver.descent import Descent
from moe.placement.solver.protocol import Assignment
from moe.placement.topology import Topology

_RANDOM_CHAINS = 6


def solve_sweep(statistics: RoutingStatistics, topology: Topology, *, seed: int) -> Assignment:
    """Minimise the coherent cost by coordinate descent; a `PlacementSolver`.

    The chain keeps one layer and assigns each further layer given the one before it, which is optimal for one expert
    a rank and one level of cost. Sweeps then assign each layer again given all others; a step that does not gain is
    not taken, so the cost never rises.
    """
    descent = Descent(statistics.transitions, statistics.jumps, topology.cost)
    ranks = best_sweep(descent, np.random.default_rng(seed))
    return Assignment(ranks, degree_bound(layer_pairs(statistics), topology.cost))


def best_sweep(descent: Descent, generator: np.random.Generator) -> NDArray[np.int64]:
    """Sweep from the contiguous assignment and from chains that begin with contiguous and with random layers.

    Args:
        descent: The cost to be lowered.
        generator: Draws the first layers of the chains.

    Returns:
        The cheapest assignment, [L, E]; never of higher cost than the contiguous one.
    """
    contiguous = contiguous_ranks(descent.num_layers, descent.num_experts, descent.num_ranks)
    first_layers = [contiguous[0], *(generator.permutation(contiguous[0]) for _ in range(_RANDOM_CHAINS))]
    starts = [contiguous, *(descent.chain(first) for first in first_layers)]
    return min((descent.sweep(ranks) for ranks in starts), key=descent.cost)
