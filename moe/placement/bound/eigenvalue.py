"""A lower bound on the coherent cost by the eigenvalues of all traffic at once, jumps included.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.together import Divisions, Relaxation
from moe.placement.counts.layer_counts import layer_blocks
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.topology import Topology

_LARGEST = 256  # experts of all layers of a window, beyond two layers
_OPERATIONS = 2e9  # cubes of window sizes, about a second
_MOST_ROUNDS = 60
_FEWEST_ROUNDS = 6
_ENOUGH_ROUNDS = 16  # for a longer window


def eigenvalue_bound(statistics: RoutingStatistics, topology: Topology) -> float:
    """Bound the coherent cost of all balanced assignments from below, at a cost that is limited by size.

    A cost matrix is at least a [other rank] + b [other node], with a the least cost between ranks, as far as ranks
    share nodes, and a + b the least between nodes; each part is bounded for itself by `most_staying`. A long chain of
    layers is cut into windows that share their border layers, and jumps out of a window are not counted: they cost at
    least nothing. Problems that would take many seconds get the bound 0.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks and what a move between them costs.

    Returns:
        The bound over all tokens.
    """
    num_layers, num_experts = statistics.num_layers, statistics.num_experts
    prices = {count: price for count, price in levels(topology) if price > 0}
    if not prices or num_layers < 2:
        return 0.0
    span, rounds = 0, 0
    for tried in range(2, max(min(_LARGEST // num_experts, num_layers), 2) + 1):
        windows = len(range(0, num_layers - 1, tried - 1))
        affordable = int(_OPERATIONS // (len(prices) * windows * (tried * num_experts) ** 3))
        if affordable >= _FEWEST_ROUNDS and (affordable >= _ENOUGH_ROUNDS or not span):
            span, rounds = tried, min(affordable, _MOST_ROUNDS)
    if not span:
        return 0.0
    bound = 0.0
    for begin in range(0, num_layers - 1, span - 1):
        blocks = layer_blocks(statistics, begin, min(begin + span, num_layers))
        one_way = blocks.reshape(blocks.shape[0] * num_experts, -1)
        traffic = one_way + one_way.T
        for count, price in prices.items():
            bound += price * (traffic.sum() / 2 - most_staying(traffic, num_experts, count, rounds))
    return max(bound, 0.0)


def levels(topology: Topology) -> list[tuple[int, float]]:
    """Split a cost matrix into costs between ranks and between nodes that it is at least.

    Args:
        topology: Ranks and what a move between them costs.

    Returns:
        Numbers of parts of each layer by level, and the least cost of a move between parts beyond the level before.
    """
    inter = topology.cost[topology.off_node > 0].min(initial=np.inf)
    intra = topology.cost[(topology.off_rank > 0) & (topology.off_node == 0)].min(initial=np.inf)
    lowest = min(intra, inter)
    if lowest == np.inf:
        return []
    return [(topology.num_ranks, lowest), (topology.num_nodes, inter - lowest if inter < np.inf else 0.0)]


def most_staying(traffic: NDArray[np.float64], num_experts: int, parts: int, rounds: int) -> float:
    """Bound from above the tokens that stay in their part when every layer is divided equally among parts.

    Args:
        traffic: Tokens between experts of all layers, symmetric, [L * E, L * E].
        num_experts: Experts E per layer.
        parts: Parts of each layer, a divisor of E.
        rounds: Rounds of the relaxation, whose prices a third as many sets of eigenvalues then improve.

    Returns:
        The bound, at most all tokens.
    """
    total = float(traffic.sum() / 2)
    if parts == 1 or total == 0:
        return total
    divisions = Divisions(len(traffic) // num_experts, num_experts, parts)
    relaxation = Relaxation(divisions, divisions.mean())
    for _ in range(rounds):
        relaxation.step(traffic)
    return min(divisions.most(traffic, relaxation.multipliers(), rounds // 3 + 1) / 2, total)
