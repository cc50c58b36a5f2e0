"""The search in dispatch modes whose layers are independent: exchanges of two experts group those that tokens choose
together.

A layer begins from several assignments, and exchanges of two experts lower its cost, within a limit on the busiest
rank. Whole groups then change their ranks, which leaves the loads of the groups as they are.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, N nodes or distinct choice sets
of a layer, K choices, V levels of places, P most places of a level.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.copies import copies_bound, hierarchical_bound
from moe.placement.cost.objective import require_sets, require_sources
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.ranks import cheapest_ranks, contiguous_ranks
from moe.placement.solver.kernels import kernels
from moe.placement.solver.load_limits import start_within
from moe.placement.solver.packing import pack_layer
from moe.placement.solver.protocol import Assignment
from moe.placement.topology import Topology
from moe.routing_trace import DROPPED

_STEPS_PER_EXPERT = 4
_LEAST_STEPS, _MOST_STEPS = 100, 512
_EVENNESS = 0.65  # price of load above the mean under a cap, in mean prices of a choice: tokens not seen are less even
_NODE_STEPS = 128


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """The choice sets of one layer and what they cost.

    Attributes:
        experts: Experts of each set, -1 where there is no choice, int64 [N, K].
        homes: Rank of the tokens of each set, int64 [N].
        tokens: Tokens of each set, float64 [N].
        places: Place of each rank by level, int64 [V, G]: ranks, and nodes in hierarchical dispatch.
        prices: Price of a token's visit by level, home and place, float64 [V, G, P].
        base: Cost of an expert by rank, whatever the others do, float64 [G, E].
        loads: Choices of each expert, float64 [E].
        limit: Most choices of one rank; infinite for no limit.
    """

    experts: NDArray[np.int64]
    homes: NDArray[np.int64]
    tokens: NDArray[np.float64]
    places: NDArray[np.int64]
    prices: NDArray[np.float64]
    base: NDArray[np.float64]
    loads: NDArray[np.float64]
    limit: float

    @property
    def num_ranks(self) -> int:
        """Ranks G."""
        return len(self.base)

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.generic], ...]:
        """The problem for the kernels: arrays, and for each expert the sets that hold it."""
        row, choice = np.nonzero(self.experts != DROPPED)
        chosen = self.experts[row, choice]
        order = np.argsort(chosen, kind="stable")
        begins = np.searchsorted(chosen[order], np.arange(len(self.loads) + 1))
        problem = self.experts, self.homes, self.tokens, self.places, self.prices, self.base, self.loads
        return tuple(map(np.ascontiguousarray, (*problem, begins, row[order])))

    def price(self, ranks: NDArray[np.int64]) -> float:
        """Cost of an assignment [E]."""
        return float(self.base[ranks, np.arange(len(ranks))].sum() + (self.visits(ranks) * self.prices).sum())

    def visits(self, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Tokens of each home that visit each place under an assignment [E], by level, [V, G, P]."""
        visits = np.zeros(self.prices.shape)
        kernels().count_visits(self._arrays, ranks, visits)
        return visits

    def keeps_limit(self, ranks: NDArray[np.int64]) -> bool:
        """Whether no rank computes more than the limit under an assignment [E]."""
        return bool(np.bincount(ranks, weights=self.loads, minlength=self.num_ranks).max() <= self.limit)

    def packed(self) -> NDArray[np.int64]:
        """The assignment that balances the loads, [E]."""
        loads = np.rint(self.loads).astype(np.int64)
        return pack_layer(loads, self.num_ranks, len(loads) // self.num_ranks).argmax(axis=1)

    def search(self, starts: list[NDArray[np.int64]], seed: int, steps: int | None = None) -> NDArray[np.int64]:
        """Search for an assignment [E] of low cost that keeps the limit.

        At least one of the starts, assignments [E], keeps the limit; no such start costs less than the result. First
        `steps` / 4 exchanges are made from each start, then `steps` from the best; by default enough for the size.
        """
        steps = steps or min(max(_STEPS_PER_EXPERT * len(self.loads), _LEAST_STEPS), _MOST_STEPS)
        best = min((start for start in starts if self.keeps_limit(start)), key=self.price)
        if not 1 < self.num_ranks <= len(self.loads):
            return best
        if len(starts) > 1:
            distinct = list({start.tobytes(): start for start in starts}.values())
            best = self._cheapest([best, *(self._exchanged(start, seed, steps // 4 + 1) for start in distinct)])
        best = self._cheapest([best, self._exchanged(self.settled(best), seed + 1, steps)])
        return self._cheapest([best, self.settled(best)])

    def settled(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give every group of experts the rank where it costs least, nodes as a whole and ranks inside; ranks [E]."""
        from scipy.optimize import linear_sum_assignment

        nodes = int(self.places[-1].max()) + 1 if len(self.places) > 1 else 1
        width = self.num_ranks // nodes
        groups = np.zeros((self.num_ranks, self.num_ranks))
        np.add.at(groups, ranks, self.base.T)
        between = np.zeros((nodes, nodes))
        if len(self.places):
            visits = self.visits(ranks)
            groups += visits[0].T @ self.prices[0]
            if nodes > 1:
                between += visits[1].T[:nodes] @ self.prices[1][:, :nodes]
        inside = np.empty((nodes, nodes, width), np.int64)
        for old, new in np.ndindex(nodes, nodes):
            block = groups[old * width : (old + 1) * width, new * width : (new + 1) * width]
            inside[old, new] = linear_sum_assignment(block)[1]
            between[old, new] += block[np.arange(width), inside[old, new]].sum()
        targets = linear_sum_assignment(between)[1]
        names = (targets[:, None] * width + inside[np.arange(nodes), targets]).ravel()
        return names[ranks]

    def _exchanged(self, ranks: NDArray[np.int64], seed: int, steps: int) -> NDArray[np.int64]:
        """Returns the ranks after `steps` exchanges, or the given ones if no assignment on the way keeps the limit."""
        evenness = 0.0
        if np.isfinite(self.limit):
            evenness = _EVENNESS * self.price(ranks) / max(self.loads.sum(), 1.0)
        exchanged = ranks.copy()
        kernels().search_swaps(self._arrays, self.limit, evenness, exchanged, steps, seed)
        return exchanged

    def _cheapest(self, choices: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        return min((ranks for ranks in choices if self.keeps_limit(ranks)), key=self.price)


def layer_problems(
    statistics: RoutingStatistics, topology: Topology, dispatch: Dispatch, limits: NDArray[np.float64] | None
) -> Iterator[LayerProblem]:
    """Problems of all layers in home, copies or hierarchical dispatch; ValueError if the counts lack something."""
    there_and_back = topology.cost + topology.cost.T
    places, prices = _levels(topology, dispatch, there_and_back)
    sources = require_sources(statistics)
    none = np.zeros((0, 1), np.int64)
    rows, tokens = none, none[:, 0]
    if dispatch != "home":
        sets = require_sets(statistics)
        rows, tokens = sets.rows, sets.tokens
    ends = np.searchsorted(rows[:, 0], np.arange(statistics.num_layers + 1))
    for layer, loads in enumerate(statistics.loads):
        part = slice(ends[layer], ends[layer + 1])
        base = np.zeros((topology.num_ranks, statistics.num_experts))
        if dispatch == "home":
            base = np.ascontiguousarray(there_and_back.T @ sources[layer])
        yield LayerProblem(
            experts=np.ascontiguousarray(rows[part, 2:]),
            homes=np.ascontiguousarray(rows[part, min(1, rows.shape[1] - 1)]),
            tokens=tokens[part].astype(np.float64),
            places=places,
            prices=prices,
            base=base,
            loads=loads.astype(np.float64),
            limit=np.inf if limits is None else float(limits[layer]),
        )


def _levels(
    topology: Topology, dispatch: Dispatch, there_and_back: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Places of the ranks by level, [V, G], and the price of a visit by level, home and place, [V, G, P]."""
    ranks, width = np.arange(topology.num_ranks), topology.ranks_per_node
    if dispatch == "home":
        return np.zeros((0, len(ranks)), np.int64), np.zeros((0, len(ranks), 1))
    if dispatch == "copies" or 1 in (topology.num_nodes, width):
        return ranks[None], there_and_back[None]
    relays = ranks // width * width + ranks[:, None] % width
    inside = there_and_back[relays, ranks]
    between = np.zeros_like(inside)
    between[:, : topology.num_nodes] = there_and_back[ranks[:, None], relays[:, ::width]]
    return np.stack([ranks, ranks // width]), np.stack([inside, between])


def solve_swaps(
    statistics: RoutingStatistics, topology: Topology, *, seed: int, limits: NDArray[np.float64] | None = None
) -> Assignment:
    """Minimise the copies cost; a `PlacementSolver`.

    Each layer begins from the contiguous order, from the balanced loads and from the exact home-return assignment; the
    best of them is improved by exchanges of two experts, chosen by tabu search.

    Source: co-activation as the objective of expert placement, Occult (arXiv 2505.13345); tabu search, Glover 1989.
    """
    ranks = search_layers(statistics, topology, "copies", seed=seed, limits=limits)
    return Assignment(ranks, copies_bound(statistics, topology, limits))


def solve_node_swaps(
    statistics: RoutingStatistics, topology: Topology, *, seed: int, limits: NDArray[np.float64] | None = None
) -> Assignment:
    """Minimise the hierarchical cost; a `PlacementSolver`.

    As `solve_swaps`, and each layer begins also from experts that were divided among the nodes first.
    """
    ranks = search_layers(statistics, topology, "hierarchical", seed=seed, limits=limits)
    return Assignment(ranks, hierarchical_bound(statistics, topology, limits))


def search_layers(
    statistics: RoutingStatistics,
    topology: Topology,
    dispatch: Dispatch,
    *,
    seed: int,
    limits: NDArray[np.float64] | None = None,
    start: NDArray[np.int64] | None = None,
    steps: int | None = None,
) -> NDArray[np.int64]:
    """Search every layer of a dispatch mode whose layers are independent.

    The result, [L, E], keeps the limits, and no layer costs more than with contiguous experts if those keep them too.

    Args:
        dispatch: home, copies or hierarchical.
        limits: Most choices of one rank by layer, [L], or None.
        start: An assignment to begin from in place of those that the search makes itself, [L, E].
        steps: Exchanges of a layer; by default enough for its size.
    """
    contiguous = contiguous_ranks(1, statistics.num_experts, topology.num_ranks)[0]
    kept = start_within(statistics.loads, topology.num_ranks, limits)
    layers = []
    for layer, problem in enumerate(layer_problems(statistics, topology, dispatch, limits)):
        if start is not None:
            starts = [start[layer]] if problem.keeps_limit(start[layer]) else [start[layer], kept[layer]]
        else:
            starts = [kept[layer], contiguous, problem.packed()]
            assert statistics.source_counts is not None
            prices = statistics.source_counts[layer].T @ (topology.cost + topology.cost.T)
            starts.append(cheapest_ranks(prices))
            if len(problem.places) > 1:
                starts.append(_nodes_first(problem, topology, contiguous, seed))
        layers.append(problem.search(starts, seed * statistics.num_layers + layer, steps))
    return np.stack(layers)


def _nodes_first(
    problem: LayerProblem, topology: Topology, contiguous: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """An assignment that divides the experts among the nodes by their copies, and inside each node by load."""
    nodes, width = topology.num_nodes, topology.ranks_per_node
    flat = replace(
        problem,
        places=np.arange(nodes)[None],
        prices=np.ascontiguousarray(problem.prices[1:, :, :nodes]),
        base=np.zeros((nodes, len(contiguous))),
        limit=problem.limit * width,
    )
    node = flat.search([contiguous // width, flat.packed()], seed, _NODE_STEPS)
    ranks = np.empty_like(contiguous)
    for place in range(nodes):
        experts = np.flatnonzero(node == place)
        loads = np.rint(problem.loads[experts]).astype(np.int64)
        ranks[experts] = place * width + pack_layer(loads, width, len(experts) // width).argmax(axis=1)
    return ranks
