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
    num_layers, num_experts = statistics.num_layers, statistics.num_experts
    contiguous = contiguous_ranks(num_layers, num_experts, topology.num_ranks)
    generator = np.random.default_rng(seed)
    first_layers = [contiguous[0], *(generator.permutation(contiguous[0]) for _ in range(_RANDOM_STARTS))]
    descent = _Descent(statistics, topology.cost)
    candidates = [descent.sweep(descent.chain(first, contiguous)) for first in first_layers]
    costs = [coherent_cost(statistics, ranks, topology.cost).sum() for ranks in candidates]
    return Assignment(candidates[int(np.argmin(costs))], degree_bound(statistics.transitions, topology.cost))


class _Descent:
    """The prices of one layer, given where the experts of the layers before and after it are."""

    def __init__(self, statistics: RoutingStatistics, cost: NDArray[np.float64]) -> None:
        self.transitions = statistics.transitions.astype(np.float64)
        self.jumps = statistics.jumps
        self.cost = cost

    def chain(self, first_layer: NDArray[np.int64], ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        ranks = ranks.copy()
        ranks[0] = first_layer
        for layer in range(1, len(ranks)):
            ranks[layer] = cheapest_ranks(self.arriving(layer, ranks))
        return ranks

    def sweep(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        ranks = ranks.copy()
        layers = range(len(ranks))
        experts = np.arange(ranks.shape[1])
        settled = 0
        while settled < len(ranks):
            for layer in layers:
                prices = self.arriving(layer, ranks) + self.leaving(layer, ranks)
                best = cheapest_ranks(prices)
                gain = prices[experts, ranks[layer]].sum() - prices[experts, best].sum()
                if gain > _LEAST_GAIN * prices.sum():
                    ranks[layer] = best
                    settled = 0
                else:
                    settled += 1
                    if settled == len(ranks):
                        break
            layers = layers[::-1]
        return ranks

    def arriving(self, layer: int, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        prices = np.zeros((ranks.shape[1], len(self.cost)))
        if layer:
            prices += self.transitions[layer - 1].T @ self.cost[ranks[layer - 1]]
        from_layer, _, from_expert, to_expert, tokens = self.jumps[self.jumps[:, 1] == layer].T
        np.add.at(prices, to_expert, tokens[:, None] * self.cost[ranks[from_layer, from_expert]])
        return prices

    def leaving(self, layer: int, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        prices = np.zeros((ranks.shape[1], len(self.cost)))
        if layer < len(self.transitions):
            prices += self.transitions[layer] @ self.cost[:, ranks[layer + 1]].T
        _, to_layer, from_expert, to_expert, tokens = self.jumps[self.jumps[:, 0] == layer].T
        np.add.at(prices, from_expert, tokens[:, None] * self.cost[:, ranks[to_layer, to_expert]].T)
        return prices
