"""Prices of a layer and its best response to the others, over counts as arrays; compiled by numba.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

from typing import NamedTuple, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

LEAST_GAIN = 1e-12  # of the price: below that a gain is rounding


class Traffic(NamedTuple):
    """Counts of a routing trace and the price of a move.

    Attributes:
        forward: Tokens from expert i of layer l to expert j of layer l + 1, float [L-1, E, E].
        backward: The same, from j of layer l + 1 to i of layer l, [L-1, E, E].
        departures: Jumps as in `RoutingStatistics` by the layer that they leave, int64 [J, 5].
        departures_begin: First row of `departures` of each layer, int64 [L+1].
        arrivals: The same jumps by the layer that they reach, int64 [J, 5].
        arrivals_begin: First row of `arrivals` of each layer, int64 [L+1].
        cost: Cost of moving one token between ranks, float [G, G].
        loads: Choices that each expert computes, float [L, E].
        limits: Most choices that a rank may compute, float [L]; infinite where there is no limit.
    """

    forward: NDArray[np.float64]
    backward: NDArray[np.float64]
    departures: NDArray[np.int64]
    departures_begin: NDArray[np.int64]
    arrivals: NDArray[np.int64]
    arrivals_begin: NDArray[np.int64]
    cost: NDArray[np.float64]
    loads: NDArray[np.float64]
    limits: NDArray[np.float64]

    @classmethod
    def collect(
        cls,
        transitions: NDArray[np.int64],
        jumps: NDArray[np.int64],
        cost: NDArray[np.float64],
        loads: NDArray[np.integer] | None = None,
        limits: NDArray[np.float64] | None = None,
    ) -> Self:
        """Lay out transitions [L-1, E, E] and jumps [J, 5]; loads [L, E] are needed with limits [L]."""
        layers = np.arange(len(transitions) + 2)
        free = loads is None or limits is None
        shape = len(transitions) + 1, transitions.shape[1]
        departures, arrivals = (np.ascontiguousarray(jumps[np.argsort(jumps[:, end], kind="stable")]) for end in (0, 1))
        return cls(
            np.ascontiguousarray(transitions, dtype=np.float64),
            np.ascontiguousarray(transitions.transpose(0, 2, 1), dtype=np.float64),
            departures,
            np.searchsorted(departures[:, 0], layers),
            arrivals,
            np.searchsorted(arrivals[:, 1], layers),
            np.ascontiguousarray(cost, dtype=np.float64),
            np.zeros(shape) if free else np.ascontiguousarray(loads, dtype=np.float64),
            np.full(shape[0], np.inf) if free else np.ascontiguousarray(limits, dtype=np.float64),
        )


@njit(cache=True)
def total_cost(traffic: Traffic, ranks: NDArray[np.int64]) -> float:
    """Coherent cost of all tokens under ranks [L, E]."""
    total = 0.0
    num_layers, num_experts = ranks.shape
    for layer in range(num_layers - 1):
        for i in range(num_experts):
            cost = traffic.cost[ranks[layer, i]]
            for j in range(num_experts):
                total += traffic.forward[layer, i, j] * cost[ranks[layer + 1, j]]
    for from_layer, to_layer, i, j, tokens in traffic.departures:
        total += tokens * traffic.cost[ranks[from_layer, i], ranks[to_layer, j]]
    return total


@njit(cache=True)
def arriving(traffic: Traffic, ranks: NDArray[np.int64], layer: int) -> NDArray[np.float64]:
    """Cost of the moves into a layer for each possible rank of each of its experts, [G, E]."""
    num_experts, num_ranks = ranks.shape[1], len(traffic.cost)
    tokens = np.zeros((num_ranks, num_experts))
    if layer > 0:
        for i in range(num_experts):
            rank = ranks[layer - 1, i]
            for j in range(num_experts):
                tokens[rank, j] += traffic.forward[layer - 1, i, j]
    for row in range(traffic.arrivals_begin[layer], traffic.arrivals_begin[layer + 1]):
        from_layer, _, i, j, count = traffic.arrivals[row]
        tokens[ranks[from_layer, i], j] += count
    return _priced(tokens, traffic.cost.T)


@njit(cache=True)
def leaving(traffic: Traffic, ranks: NDArray[np.int64], layer: int) -> NDArray[np.float64]:
    """Cost of the moves out of a layer for each possible rank of each of its experts, [G, E]."""
    num_experts, num_ranks = ranks.shape[1], len(traffic.cost)
    tokens = np.zeros((num_ranks, num_experts))
    if layer < len(ranks) - 1:
        for j in range(num_experts):
            rank = ranks[layer + 1, j]
            for i in range(num_experts):
                tokens[rank, i] += traffic.backward[layer, j, i]
    for row in range(traffic.departures_begin[layer], traffic.departures_begin[layer + 1]):
        _, to_layer, i, j, count = traffic.departures[row]
        tokens[ranks[to_layer, j], i] += count
    return _priced(tokens, traffic.cost)


@njit(cache=True)
def _priced(tokens: NDArray[np.float64], cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """Prices [G, E] from tokens exchanged with rank g, [G, E], at cost[here, g]."""
    num_ranks, num_experts = tokens.shape
    prices = np.zeros((num_ranks, num_experts))
    for here in range(num_ranks):
        for there in range(num_ranks):
            price = cost[here, there]
            if price != 0.0:
                for expert in range(num_experts):
                    prices[here, expert] += price * tokens[there, expert]
    return prices


@njit(cache=True)
def cheapest_ranks(prices: NDArray[np.float64]) -> NDArray[np.int64]:
    """Assign the experts of one layer to ranks at least cost, exactly, by successive shortest paths over ranks.

    Prices [G, E] give ranks int64 [E], E / G experts on each rank.
    """
    num_ranks, num_experts = prices.shape
    slots = num_experts // num_ranks
    ranks = np.full(num_experts, -1)
    members = np.empty((num_ranks, slots), np.int64)
    loads = np.zeros(num_ranks, np.int64)
    discounts = np.zeros(num_ranks)
    distance = np.empty(num_ranks)
    via = np.empty(num_ranks, np.int64)
    reached = np.empty(num_ranks, np.bool_)
    for newcomer in range(num_experts):
        for rank in range(num_ranks):
            distance[rank] = prices[rank, newcomer] - discounts[rank]
            via[rank] = newcomer
            reached[rank] = False
        while True:
            nearest = -1
            for rank in range(num_ranks):
                if not reached[rank] and (nearest < 0 or distance[rank] < distance[nearest]):
                    nearest = rank
            if loads[nearest] < slots:
                break
            reached[nearest] = True
            for slot in range(slots):
                expert = members[nearest, slot]
                pushed = distance[nearest] - prices[nearest, expert] + discounts[nearest]
                for rank in range(num_ranks):
                    if not reached[rank]:
                        length = pushed + prices[rank, expert] - discounts[rank]
                        if length < distance[rank]:
                            distance[rank] = length
                            via[rank] = expert
        for rank in range(num_ranks):
            if reached[rank]:
                discounts[rank] += distance[rank] - distance[nearest]
        rank, slot = nearest, loads[nearest]
        loads[nearest] += 1
        while True:
            expert = via[rank]
            left = ranks[expert]
            members[rank, slot] = expert
            ranks[expert] = rank
            if expert == newcomer:
                break
            slot = 0
            while members[left, slot] != expert:
                slot += 1
            rank = left
    return ranks


@njit(cache=True)
def keeps_limit(ranks: NDArray[np.int64], loads: NDArray[np.float64], num_ranks: int, limit: float) -> bool:
    """Whether no rank computes more than the limit under ranks [E] of experts with loads [E]."""
    if limit == np.inf:
        return True
    totals = np.zeros(num_ranks)
    for expert in range(len(ranks)):
        totals[ranks[expert]] += loads[expert]
    return totals.max() <= limit


@njit(cache=True)
def exchange_within_limit(
    prices: NDArray[np.float64], ranks: NDArray[np.int64], loads: NDArray[np.float64], limit: float
) -> None:
    """Exchange two experts of a layer as long as that gains: changes ranks [E], which keep the limit all along."""
    num_ranks, num_experts = prices.shape
    totals = np.zeros(num_ranks)
    for expert in range(num_experts):
        totals[ranks[expert]] += loads[expert]
    gained = True
    while gained:
        gained = False
        for one in range(num_experts):
            best, partner = 0.0, -1
            here = ranks[one]
            for two in range(num_experts):
                there = ranks[two]
                if here == there:
                    continue
                change = prices[there, one] - prices[here, one] + prices[here, two] - prices[there, two]
                shift = loads[one] - loads[two]
                if change < best and totals[there] + shift <= limit and totals[here] - shift <= limit:
                    best, partner = change, two
            if partner >= 0 and best < -LEAST_GAIN * (abs(prices[here, one]) + abs(prices[here, partner])):
                there, shift = ranks[partner], loads[one] - loads[partner]
                ranks[one], ranks[partner] = there, here
                totals[there] += shift
                totals[here] -= shift
                gained = True


@njit(cache=True)
def respond(traffic: Traffic, prices: NDArray[np.float64], ranks: NDArray[np.int64], layer: int) -> NDArray[np.int64]:
    """Assign the experts of a layer at least cost; where that breaks the limit, by exchanges from the present ranks.

    Prices are [G, E]; ranks [L, E] keep the limit, and so does the result, int64 [E].
    """
    loads, limit = traffic.loads[layer], traffic.limits[layer]
    best = cheapest_ranks(prices)
    if keeps_limit(best, loads, len(prices), limit):
        return best
    best = ranks[layer].copy()
    exchange_within_limit(prices, best, loads, limit)
    return best


@njit(cache=True)
def chain(traffic: Traffic, ranks: NDArray[np.int64]) -> None:
    """Assign each layer but the first at least cost given the layers before it; changes ranks [L, E]."""
    for layer in range(1, len(ranks)):
        ranks[layer] = respond(traffic, arriving(traffic, ranks, layer), ranks, layer)


@njit(cache=True)
def sweep(traffic: Traffic, ranks: NDArray[np.int64], stale_layers: NDArray[np.bool_]) -> None:
    """Assign layers at least cost given all others, to and fro, until no layer gains.

    Changes ranks [L, E], never to an assignment of higher cost; begins with the stale layers, [L], and leaves none.
    """
    num_layers, num_experts = ranks.shape
    while stale_layers.any():
        for turn in range(2 * num_layers):
            layer = min(turn, 2 * num_layers - 1 - turn)
            if not stale_layers[layer]:
                continue
            stale_layers[layer] = False
            prices = arriving(traffic, ranks, layer) + leaving(traffic, ranks, layer)
            best = respond(traffic, prices, ranks, layer)
            before, after = 0.0, 0.0
            for expert in range(num_experts):
                before += prices[ranks[layer, expert], expert]
                after += prices[best[expert], expert]
            if after < before * (1 - LEAST_GAIN):
                ranks[layer] = best
                mark_neighbours(traffic, stale_layers, layer)


@njit(cache=True)
def mark_neighbours(traffic: Traffic, stale_layers: NDArray[np.bool_], layer: int) -> None:
    """Mark the layers whose prices depend on a layer that has changed."""
    if len(traffic.departures):
        stale_layers[:layer] = True
        stale_layers[layer + 1 :] = True
    if layer > 0:
        stale_layers[layer - 1] = True
    if layer + 1 < len(stale_layers):
        stale_layers[layer + 1] = True
