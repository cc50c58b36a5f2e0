"""Ranks of experts: in ascending order, at least price in one layer, and renamed so that a migration moves few experts.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, N nodes, R ranks per node.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.placement import slots_per_rank
from moe.placement.topology import Topology


def contiguous_ranks(num_layers: int, num_experts: int, num_ranks: int) -> NDArray[np.int64]:
    """Rank of each expert, int64 [L, E], where experts 0 to S - 1 are on rank 0, the next S on rank 1, and so on."""
    ranks = np.arange(num_experts) // slots_per_rank(num_experts, num_ranks)
    return np.tile(ranks, (num_layers, 1))


def cheapest_ranks(prices: NDArray[np.float64]) -> NDArray[np.int64]:
    """Assign the experts of a layer at least cost, exactly: prices [E, G] give ranks int64 [E], E / G on each."""
    from scipy.optimize import linear_sum_assignment

    num_experts, num_ranks = prices.shape
    slots = num_experts // num_ranks
    _, slot = linear_sum_assignment(np.repeat(prices, slots, axis=1))
    return slot // slots


def relabel(old_ranks: NDArray[np.int64], new_ranks: NDArray[np.int64], topology: Topology) -> NDArray[np.int64]:
    """Rename nodes and the ranks inside them in a new placement so that most experts stay where they are.

    Both levels are assignment problems, the outer one over the values of the inner ones, so no other renaming that
    keeps nodes together keeps more experts. A renaming is taken only if it leaves the cost matrix as it is, and with
    it the cost of every placement: first nodes and ranks are tried, then ranks inside their nodes. Takes and returns
    the rank of each expert, [L, E]; unchanged if no renaming keeps more experts.
    """
    stays = np.zeros((topology.num_ranks, topology.num_ranks), np.int64)
    np.add.at(stays, (new_ranks, old_ranks), 1)
    for nodes_too in (True, False):
        names = _names(stays, topology, nodes_too)
        symmetric = np.array_equal(topology.cost[np.ix_(names, names)], topology.cost)
        if symmetric and stays[np.arange(len(names)), names].sum() > stays.trace():
            return names[new_ranks]
    return new_ranks


def _names(stays: NDArray[np.int64], topology: Topology, nodes_too: bool) -> NDArray[np.int64]:
    """New name of each rank, [G], that keeps most experts; stays[new, old] experts stay if `new` is named `old`."""
    from scipy.optimize import linear_sum_assignment

    nodes, ranks = topology.num_nodes, topology.ranks_per_node
    blocks = stays.reshape(nodes, ranks, nodes, ranks).transpose(0, 2, 1, 3)
    inside = np.empty((nodes, nodes, ranks), np.int64)
    kept = np.empty((nodes, nodes), np.int64)
    for new in range(nodes):
        for old in range(nodes):
            inside[new, old] = linear_sum_assignment(blocks[new, old], maximize=True)[1]
            kept[new, old] = blocks[new, old][np.arange(ranks), inside[new, old]].sum()
    targets = linear_sum_assignment(kept, maximize=True)[1] if nodes_too else np.arange(nodes)
    return (targets[:, None] * ranks + inside[np.arange(nodes), targets]).ravel()
