"""A placement under other names of its ranks, so that as many experts as possible stay where they are.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, N nodes, R ranks of a node.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.topology import Topology


def relabel(old_ranks: NDArray[np.int64], new_ranks: NDArray[np.int64], topology: Topology) -> NDArray[np.int64]:
    """Rename the nodes of a placement, then the ranks of each node, alike in all layers.

    Args:
        old_ranks: Where the experts are, [L, E].
        new_ranks: Where they shall be, [L, E].
        topology: Ranks and what a move between them costs.

    Returns:
        The new placement renamed, [L, E]; as it is where the cost matrix tells the renamed ranks apart, so that
        a cost that follows from it alone never changes.
    """
    from scipy.optimize import linear_sum_assignment

    nodes, ranks = topology.num_nodes, topology.ranks_per_node
    stays = np.zeros((topology.num_ranks, topology.num_ranks), np.int64)
    np.add.at(stays, (new_ranks.ravel(), old_ranks.ravel()), 1)
    blocks = stays.reshape(nodes, ranks, nodes, ranks).swapaxes(1, 2)
    names_inside = np.zeros((nodes, nodes, ranks), np.int64)
    kept = np.zeros((nodes, nodes), np.int64)
    for new, old in np.ndindex(nodes, nodes):
        rows, names = linear_sum_assignment(blocks[new, old], maximize=True)
        names_inside[new, old], kept[new, old] = names, blocks[new, old][rows, names].sum()
    new_nodes, old_nodes = linear_sum_assignment(kept, maximize=True)
    names = (old_nodes[:, None] * ranks + names_inside[new_nodes, old_nodes]).ravel()
    unchanged = np.array_equal(topology.cost[np.ix_(names, names)], topology.cost)
    return names[new_ranks] if unchanged else new_ranks
