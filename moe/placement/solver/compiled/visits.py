"""Visits of tokens as arrays for compiled code, and what a layer of them costs."""

from typing import NamedTuple, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moe.placement.counts import Tally
from moe.placement.solver.compiled.layers import cheapest_ranks
from moe.routing_trace import DROPPED


class Visits(NamedTuple):
    """Visits of tokens to the experts of each layer, and the price of a move.

    A token comes from rank s, where its anchor of the layer before was, and ends on rank h of its new anchor. With
    every rank r that holds any of its choices, h included, it exchanges a copy for cost[s, r] + cost[r, h]; that of h
    is the move itself.

    Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, N distinct visits, K choices.

    Attributes:
        experts: Choices of each visit, the anchor first, -1 where there is none, int16 [N, K]; ordered by layer.
        tokens: Tokens of each visit, float64 [N].
        begin: First visit of each layer, int64 [L+1].
        origin_layer: Layer of the anchor that the tokens come from, -1 if they start at their anchor, int64 [N].
        origin: That anchor, int64 [N].
        members: Visits that contain an expert, by layer and expert, int64.
        members_begin: First of them for each layer and expert, int64 [L * E + 1].
        leavers: Visits whose tokens come from an expert, by layer and expert, int64.
        leavers_begin: First of them for each layer and expert, int64 [L * E + 1].
        cost: Cost of moving one token between ranks, float64 [G, G].
        back: The same transposed.
    """

    experts: NDArray[np.int16]
    tokens: NDArray[np.float64]
    begin: NDArray[np.int64]
    origin_layer: NDArray[np.int64]
    origin: NDArray[np.int64]
    members: NDArray[np.int64]
    members_begin: NDArray[np.int64]
    leavers: NDArray[np.int64]
    leavers_begin: NDArray[np.int64]
    cost: NDArray[np.float64]
    back: NDArray[np.float64]

    @classmethod
    def collect(cls, visits: Tally, num_layers: int, num_experts: int, cost: NDArray[np.float64]) -> Self:
        """Lay out rows as in `RoutingStatistics.visits` for compiled code."""
        order = np.argsort(visits.rows[:, 0], kind="stable")
        rows = visits.rows[order]
        layer, origin_layer, origin, experts = rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3:]
        row, choice = np.nonzero(experts != DROPPED)
        came = np.flatnonzero(origin_layer != DROPPED)
        members, members_begin = _grouped(
            row, layer[row] * num_experts + experts[row, choice], num_layers * num_experts
        )
        leavers, leavers_begin = _grouped(
            came, origin_layer[came] * num_experts + origin[came], num_layers * num_experts
        )
        return cls(
            np.ascontiguousarray(experts, dtype=np.int16),
            visits.tokens[order].astype(np.float64),
            np.searchsorted(layer, np.arange(num_layers + 1)),
            np.ascontiguousarray(origin_layer),
            np.ascontiguousarray(origin),
            members,
            members_begin,
            leavers,
            leavers_begin,
            np.ascontiguousarray(cost, dtype=np.float64),
            np.ascontiguousarray(cost.T, dtype=np.float64),
        )


def _grouped(rows: NDArray[np.int64], keys: NDArray[np.int64], num_keys: int) -> tuple[NDArray, NDArray]:
    order = np.argsort(keys, kind="stable")
    return rows[order], np.searchsorted(keys[order], np.arange(num_keys + 1))


@njit(cache=True)
def visit_cost(visits: Visits, held: NDArray[np.int16], start: int) -> float:
    """Cost of the move and the copies of one token, whose choices are on the ranks `held` [K] (-1 where there is none).

    It comes from rank `start`, -1 for that of its anchor.
    """
    end = held[0]
    out, back = visits.cost[end if start < 0 else start], visits.back[end]
    total = 0.0
    for choice in range(len(held)):
        rank = held[choice]
        if rank >= 0:
            first = True
            for other in range(choice):
                if held[other] == rank:
                    first = False
                    break
            if first:
                total += out[rank] + back[rank]
    return total


@njit(cache=True)
def locate(
    visits: Visits, ranks: NDArray[np.int64], layer: int, held: NDArray[np.int16], start: NDArray[np.int64]
) -> None:
    """Fill in the ranks of a layer's visits: those of choices, [visits, K], and where the tokens come from, [visits].

    -1 where there is no choice, and for the anchor's own rank.
    """
    first = visits.begin[layer]
    for row in range(first, visits.begin[layer + 1]):
        for choice in range(held.shape[1]):
            expert = visits.experts[row, choice]
            held[row - first, choice] = ranks[layer, expert] if expert >= 0 else -1
        begin = visits.origin_layer[row]
        start[row - first] = ranks[begin, visits.origin[row]] if begin >= 0 else -1


@njit(cache=True)
def visits_cost(visits: Visits, ranks: NDArray[np.int64]) -> float:
    """Coherent cost of all tokens, copies included, under ranks [L, E]."""
    total = 0.0
    for layer in range(len(ranks)):
        first, count = visits.begin[layer], visits.begin[layer + 1] - visits.begin[layer]
        held, start = np.empty((count, visits.experts.shape[1]), np.int16), np.empty(count, np.int64)
        locate(visits, ranks, layer, held, start)
        for row in range(count):
            total += float(visits.tokens[first + row]) * visit_cost(visits, held[row], start[row])
    return total


@njit(cache=True)
def rename(visits: Visits, ranks: NDArray[np.int64]) -> None:
    """Give the ranks of each layer the names that cost least after the layer before it; changes ranks [L, E].

    Which experts share a rank stays. With one cost between all ranks and no jumps the names are optimal: a renaming
    of a layer and all further ones then changes the way there alone, and that is an assignment problem. Elsewhere the
    cost may rise.
    """
    num_ranks = len(visits.cost)
    for layer in range(1, len(ranks)):
        first, count = visits.begin[layer], visits.begin[layer + 1] - visits.begin[layer]
        held, start = np.empty((count, visits.experts.shape[1]), np.int16), np.empty(count, np.int64)
        locate(visits, ranks, layer, held, start)
        prices = np.zeros((num_ranks, num_ranks))
        seen = np.full(num_ranks, -1)
        for row in range(count):
            if start[row] < 0:
                continue
            for rank in held[row]:
                if rank >= 0 and seen[rank] != row:
                    seen[rank] = row
                    for name in range(num_ranks):
                        prices[name, rank] += visits.tokens[first + row] * visits.cost[start[row], name]
        names = cheapest_ranks(prices)
        for later in range(layer, len(ranks)):
            for expert in range(ranks.shape[1]):
                ranks[later, expert] = names[ranks[later, expert]]
