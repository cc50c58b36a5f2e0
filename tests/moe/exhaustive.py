"""Small placement problems, and their answers by trying everything."""

from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.objective import OBJECTIVES
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.topology import Topology


def uneven_topology(nodes: int, ranks_per_node: int, seed: int) -> Topology:
    """A different cost for every ordered pair of ranks."""
    ranks = nodes * ranks_per_node
    cost = np.random.default_rng(seed).integers(1, 20, size=(ranks, ranks)).astype(float)
    np.fill_diagonal(cost, 0)
    return Topology(nodes, ranks_per_node, cost, "units")


def balanced_layers(num_experts: int, num_ranks: int) -> list[tuple[int, ...]]:
    """Every balanced assignment of one layer."""
    ranks = [rank for rank in range(num_ranks) for _ in range(num_experts // num_ranks)]
    return sorted(set(permutations(ranks)))


def optimum(objective: Dispatch, statistics: RoutingStatistics, topology: Topology) -> float:
    """Least cost of all tokens over every balanced assignment of all layers."""
    layers = balanced_layers(statistics.num_experts, topology.num_ranks)
    price = OBJECTIVES[objective]
    return min(
        price(statistics, np.array(ranks), topology.cost, topology.num_nodes).sum()
        for ranks in product(layers, repeat=statistics.num_layers)
    )


def random_ranks(num_layers: int, num_experts: int, num_ranks: int, seed: int) -> NDArray[np.int64]:
    """A balanced assignment drawn at random, [L, E]."""
    draw = np.random.default_rng(seed)
    layer = np.arange(num_experts) // (num_experts // num_ranks)
    return np.stack([draw.permutation(layer) for _ in range(num_layers)])


def is_balanced(ranks: NDArray[np.int64], num_ranks: int) -> bool:
    """Whether every rank has the same number of experts in every layer."""
    slots = ranks.shape[1] // num_ranks
    return all((np.bincount(layer, minlength=num_ranks) == slots).all() for layer in ranks)
