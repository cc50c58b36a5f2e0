"""Home-return dispatch with one copy a rank: groups experts that tokens choose together.

The layers are independent. The cost of copies depends on the sets of experts of the ranks. For given groups the best
rank of each group is an assignment problem; the grouping is searched by exchanges.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, N distinct choice sets
of a layer, K choices.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.copies import choices_by_place, copies_bound
from moe.placement.contiguous import contiguous_ranks
from moe.placement.cost.objective import require_sets
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.slots import cheapest_ranks
from moe.placement.solver.protocol import Assignment
from moe.placement.topology import Topology
from moe.routing_trace import DROPPED

_WORK = 20_000_000  # elementary updates that further starts of one layer may take
_MOST_KICKS = 24


def solve_swaps(statistics: RoutingStatistics, topology: Topology, *, seed: int) -> Assignment:
    """Minimise the copies cost; a `PlacementSolver`.

    Each layer descends from the contiguous order, from the exact home-return assignment and from a greedy grouping
    by co-activation; the best of them is then disturbed by seeded exchanges and descends again, as often as the size
    of the layer allows. No step raises the cost, and a layer that gains nothing stays contiguous.

    Source: co-activation as the objective of expert placement, Occult (arXiv 2505.13345).
    """
    sets = require_sets(statistics)
    there_and_back = topology.cost + topology.cost.T
    contiguous = contiguous_ranks(1, statistics.num_experts, topology.num_ranks)[0]
    generator = np.random.default_rng(seed)
    layers = []
    for layer in range(statistics.num_layers):
        rows = sets.rows[:, 0] == layer
        problem = LayerProblem(
            sets.rows[rows, 2:], sets.rows[rows, 1], sets.tokens[rows].astype(np.float64), there_and_back
        )
        ranks = problem.search(contiguous, statistics.coactivation[layer], statistics.loads[layer], generator)
        layers.append(ranks)
    return Assignment(np.stack(layers), copies_bound(statistics, topology))


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """The choice sets of one layer and the price of a copy.

    Attributes:
        experts: Experts of each set, -1 where there is no choice, int64 [N, K].
        homes: Rank of the tokens of each set, int64 [N].
        tokens: Tokens of each set, float64 [N].
        cost: Cost of a copy's way there and back, [G, G].
    """

    experts: NDArray[np.int64]
    homes: NDArray[np.int64]
    tokens: NDArray[np.float64]
    cost: NDArray[np.float64]

    def search(
        self,
        contiguous: NDArray[np.int64],
        coactivation: NDArray[np.int64],
        loads: NDArray[np.int64],
        generator: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Search for an assignment of low cost.

        Args:
            contiguous: The contiguous assignment, [E].
            coactivation: Tokens that chose both of two experts, [E, E].
            loads: Tokens that chose an expert, [E].
            generator: Source of the disturbances.

        Returns:
            Rank of each expert, [E]; never of higher cost than contiguous.
        """
        num_experts, num_ranks = len(contiguous), len(self.cost)
        slots = num_experts // num_ranks
        sources = choices_by_place(self.experts, self.homes, self.tokens, num_ranks, num_experts)
        starts = [contiguous, cheapest_ranks(sources.T @ self.cost), group_greedily(coactivation, loads, slots)]
        best, price = contiguous, self.price(contiguous)
        for start in starts:
            best, price = self._better(best, price, start)
        if 1 < num_ranks < num_experts:
            work = max(self.experts.size * (num_ranks + self.experts.shape[1]), 1)
            for _ in range(min(_WORK // work, _MOST_KICKS)):
                shaken = best.copy()
                chosen = generator.choice(num_experts, size=min(2 * max(slots, 2), num_experts), replace=False)
                shaken[chosen] = shaken[generator.permutation(chosen)]
                best, price = self._better(best, price, shaken)
        return best

    def price(self, ranks: NDArray[np.int64]) -> float:
        """Cost of all copies under an assignment [E]."""
        return float((self.copies(ranks) * self.cost).sum())

    def copies(self, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Copies that the tokens of each rank send to each rank, [G, G]."""
        held = np.zeros((len(self.experts), len(self.cost)), dtype=bool)
        row, choice = np.nonzero(self.experts != DROPPED)
        held[row, ranks[self.experts[row, choice]]] = True
        at_home = (self.homes == np.arange(len(self.cost))[:, None]) * self.tokens
        return at_home @ held

    def descend(self, start: NDArray[np.int64]) -> NDArray[np.int64]:
        """Exchange experts, then ranks of whole groups, until neither saves anything."""
        from moe.placement.solver.swap_kernels import descend

        ranks = start.copy()
        experts, homes = np.ascontiguousarray(self.experts), np.ascontiguousarray(self.homes)
        row, choice = np.nonzero(experts != DROPPED)
        order = np.argsort(experts[row, choice], kind="stable")
        members = row[order]
        starts = np.searchsorted(experts[row, choice][order], np.arange(len(ranks) + 1))
        price = self.price(ranks)
        while True:
            ranks = cheapest_ranks(self.copies(ranks).T @ self.cost)[ranks]
            descend(experts, homes, self.tokens, self.cost, starts, members, ranks)
            improved = self.price(ranks)
            if improved >= price * (1 - 1e-12):
                return ranks
            price = improved

    def _better(
        self, best: NDArray[np.int64], price: float, start: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], float]:
        ranks = self.descend(start)
        new_price = self.price(ranks)
        return (ranks, new_price) if new_price < price * (1 - 1e-12) else (best, price)


def group_greedily(coactivation: NDArray[np.int64], loads: NDArray[np.int64], slots: int) -> NDArray[np.int64]:
    """Group the experts of a layer: start with the busiest ungrouped one, add those most often chosen with the group.

    Args:
        coactivation: Tokens that chose both of two experts, [E, E].
        loads: Tokens that chose an expert, [E].
        slots: Experts of a group.

    Returns:
        Group of each expert, [E].
    """
    groups = np.full(len(loads), -1)
    for group in range(len(loads) // slots):
        bond = np.zeros(len(loads))
        for place in range(slots):
            wish = np.where(groups < 0, bond if place else loads, -1)
            expert = int(wish.argmax())
            groups[expert] = group
            bond += coactivation[expert]
    return groups
