"""Prices of a layer and its best response to the others, compiled by numba.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moe.placement.solver.compiled.traffic import Traffic

LEAST_GAIN = 1e-12  # of the price: below that a gain is rounding


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

    Args:
        prices: Cost of putting each expert on each rank, [G, E]; E is a multiple of G.

    Returns:
        Rank of each expert, int64 [E]; E / G experts on every rank.
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
def chain(traffic: Traffic, ranks: NDArray[np.int64]) -> None:
    """Assign each layer but the first at least cost given the layers before it; changes ranks [L, E]."""
    for layer in range(1, len(ranks)):
        ranks[layer] = cheapest_ranks(arriving(traffic, ranks, layer))


@njit(cache=True)
def sweep(traffic: Traffic, ranks: NDArray[np.int64], stale_layers: NDArray[np.bool_]) -> None:
    """Assign layers at least cost given all others, to and fro, until no layer gains.

    Args:
        traffic: Counts and cost.
        ranks: Rank of each expert, [L, E]; changed, never to an assignment of higher cost.
        stale_layers: Layers that may gain, [L]; none is left.
    """
    num_layers, num_experts = ranks.shape
    while stale_layers.any():
        for turn in range(2 * num_layers):
            layer = min(turn, 2 * num_layers - 1 - turn)
            if not stale_layers[layer]:
                continue
            stale_layers[layer] = False
            prices = arriving(traffic, ranks, layer) + leaving(traffic, ranks, layer)
            best = cheapest_ranks(prices)
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
