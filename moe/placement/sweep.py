"""Coherent dispatch by chain and sweep: each layer's exact best response to its neighbours, until no layer gains.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.bounds import degree_bound
from moe.placement.contiguous import contiguous_ranks
from moe.placement.objective import coherent_cost
from moe.placement.protocol import Assignment
from moe.placement.slots import cheapest_ranks
from moe.placement.statistics import RoutingStatistics
from moe.placement.topology import Topology

_RANDOM_STARTS = 7
_LEAST_GAIN = 1e-12  # of the total price of a layer: below that a gain is rounding


def solve_sweep(statistics: RoutingStatistics, topology: Topology, *, seed: int) -> Assignment:
    """Minimise the coherent cost by coordinate descent; a `PlacementSolver`.

    The chain keeps one layer and assigns each further layer given the one before it, which is optimal for one expert
    a rank and one level of cost. Sweeps then assign each layer again given both neighbours; a step that does not
    gain is not taken, so the cost never rises. Starts: chains from a contiguous layer 0 and from seeded random ones.
    """
    contiguous = contiguous_ranks(1, statistics.num_experts, topology.num_ranks)[0]
    generator = np.random.default_rng(seed)
    first_layers = [contiguous, *(generator.permutation(contiguous) for _ in range(_RANDOM_STARTS))]
    descent = Descent(statistics, topology.cost)
    candidates = [descent.sweep(descent.chain(first)) for first in first_layers]
    costs = [coherent_cost(statistics, ranks, topology.cost).sum() for ranks in candidates]
    return Assignment(candidates[int(np.argmin(costs))], degree_bound(statistics.transitions, topology.cost))


class Descent:
    """Coordinate descent over layers on the coherent cost.

    Args:
        statistics: Counts of the routing trace.
        cost: Cost of moving one token between ranks, [G, G].
    """

    def __init__(self, statistics: RoutingStatistics, cost: NDArray[np.float64]) -> None:
        self.transitions = statistics.transitions.astype(np.float64)
        self.jumps = statistics.jumps
        self.cost = cost

    def chain(self, first_layer: NDArray[np.int64]) -> NDArray[np.int64]:
        """Assign each layer at least cost given the layers before it.

        Args:
            first_layer: Rank of each expert of layer 0, [E].

        Returns:
            Rank of each expert, [L, E].
        """
        ranks = np.tile(first_layer, (len(self.transitions) + 1, 1))
        for layer in range(1, len(ranks)):
            ranks[layer] = cheapest_ranks(self.arriving(layer, ranks))
        return ranks

    def sweep(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Assign layer after layer at least cost given all others, to and fro, until no layer gains.

        Args:
            ranks: A balanced assignment to start from, [L, E].

        Returns:
            Rank of each expert, [L, E]; never dearer than the start.
        """
        ranks = ranks.copy()
        experts = np.arange(ranks.shape[1])
        layers = range(len(ranks))
        gained = True
        while gained:
            gained = False
            for layer in layers:
                prices = self.arriving(layer, ranks) + self.leaving(layer, ranks)
                best = cheapest_ranks(prices)
                gain = prices[experts, ranks[layer]].sum() - prices[experts, best].sum()
                if gain > _LEAST_GAIN * prices.sum():
                    ranks[layer] = best
                    gained = True
            layers = layers[::-1]
        return ranks

    def arriving(self, layer: int, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cost of the moves into a layer by the rank that each of its experts might be on, [E, G]."""
        prices = np.zeros((ranks.shape[1], len(self.cost)))
        if layer:
            prices += self.transitions[layer - 1].T @ self.cost[ranks[layer - 1]]
        from_layer, _, from_expert, to_expert, tokens = self.jumps[self.jumps[:, 1] == layer].T
        np.add.at(prices, to_expert, tokens[:, None] * self.cost[ranks[from_layer, from_expert]])
        return prices

    def leaving(self, layer: int, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cost of the moves out of a layer by the rank that each of its experts might be on, [E, G]."""
        prices = np.zeros((ranks.shape[1], len(self.cost)))
        if layer < len(self.transitions):
            prices += self.transitions[layer] @ self.cost[:, ranks[layer + 1]].T
        _, to_layer, from_expert, to_expert, tokens = self.jumps[self.jumps[:, 0] == layer].T
        np.add.at(prices, from_expert, tokens[:, None] * self.cost[:, ranks[to_layer, to_expert]].T)
        return prices
