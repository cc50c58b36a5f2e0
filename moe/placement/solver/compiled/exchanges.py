"""Exchanges of two experts of a layer, priced by visits and kept within the limit of the loads; compiled by numba.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, N visits of a layer, K choices.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moe.placement.solver.compiled.layers import LEAST_GAIN
from moe.placement.solver.compiled.visits import Visits, locate, visit_cost


class Layer(NamedTuple):
    """A layer while its experts are exchanged.

    Attributes:
        number: Which MoE layer.
        held: Rank of each choice, the anchor's first, -1 where there is none, [N, K].
        start: Rank where the tokens come from, -1 for that of their anchor, [N].
        prices: Price of each expert on each rank while all others stay, up to a constant, [E, G].
        outdated: Whether experts have moved since an expert was priced, [E].
        loads: Choices that each expert computes, [E].
        rank_loads: Choices that each rank computes, [G].
    """

    number: int
    held: NDArray[np.int16]
    start: NDArray[np.int64]
    prices: NDArray[np.float64]
    outdated: NDArray[np.bool_]
    loads: NDArray[np.float64]
    rank_loads: NDArray[np.float64]


@njit(cache=True)
def anneal(
    visits: Visits,
    ranks: NDArray[np.int64],
    loads: NDArray[np.float64],
    limits: NDArray[np.float64],
    heat: float,
    tries: int,
    seed: int,
) -> None:
    """Propose `tries` exchanges in every layer and take those that cost little: changes ranks [L, E] within limits.

    `heat` is the temperature in the acceptance rule of Metropolis, in units of cost.
    """
    np.random.seed(seed)  # noqa: NPY002  (numba's own state)
    num_experts = ranks.shape[1]
    for number in np.random.permutation(len(ranks)):  # noqa: NPY002
        layer = open_layer(visits, ranks, number, loads[number])
        for _ in range(tries):
            one, two = np.random.randint(num_experts), np.random.randint(num_experts)  # noqa: NPY002
            bar = -heat * np.log(1.0 - np.random.random())  # noqa: NPY002
            exchange(visits, ranks, layer, one, two, bar, float(limits[number]))


@njit(cache=True)
def descend(visits: Visits, ranks: NDArray[np.int64], loads: NDArray[np.float64], limits: NDArray[np.float64]) -> None:
    """Exchange experts until no exchange in any layer gains; arguments as those of `anneal`."""
    num_layers, num_experts = ranks.shape
    stale = np.ones(num_layers, np.bool_)
    while stale.any():
        for number in range(num_layers):
            if not stale[number]:
                continue
            stale[number] = False
            layer = open_layer(visits, ranks, number, loads[number])
            gained, changed = True, False
            while gained:
                gained = False
                for one in range(num_experts):
                    for two in range(one + 1, num_experts):
                        if exchange(visits, ranks, layer, one, two, 0.0, limits[number]):
                            gained = changed = True
            if changed:
                mark_linked(visits, stale, number)


@njit(cache=True)
def mark_linked(visits: Visits, stale: NDArray[np.bool_], number: int) -> None:
    """Mark the layers that tokens of a layer come from or go to."""
    num_layers = len(stale)
    for row in range(visits.begin[number], visits.begin[number + 1]):
        if visits.origin_layer[row] >= 0:
            stale[visits.origin_layer[row]] = True
    num_experts = (len(visits.leavers_begin) - 1) // num_layers
    for index in range(visits.leavers_begin[number * num_experts], visits.leavers_begin[(number + 1) * num_experts]):
        stale[layer_of(visits, visits.leavers[index])] = True


@njit(cache=True)
def open_layer(visits: Visits, ranks: NDArray[np.int64], number: int, loads: NDArray[np.float64]) -> Layer:
    """Price all experts of a layer."""
    num_experts, num_ranks = ranks.shape[1], len(visits.cost)
    count = visits.begin[number + 1] - visits.begin[number]
    held, start = np.empty((count, visits.experts.shape[1]), np.int16), np.empty(count, np.int64)
    locate(visits, ranks, number, held, start)
    rank_loads = np.zeros(num_ranks)
    for expert in range(num_experts):
        rank_loads[ranks[number, expert]] += loads[expert]
    prices = np.empty((num_experts, num_ranks))
    layer = Layer(number, held, start, prices, np.zeros(num_experts, np.bool_), loads, rank_loads)
    for expert in range(num_experts):
        price_expert(visits, ranks, layer, expert)
    return layer


@njit(cache=True)
def exchange(
    visits: Visits, ranks: NDArray[np.int64], layer: Layer, one: int, two: int, bar: float, limit: float
) -> bool:
    """Exchange two experts if that costs at most `bar`, or gains where that is 0, and the loads stay in the limit.

    The prices of two experts add up to that of their exchange but for visits to both. Outdated prices decide which
    exchanges are looked at, never which are taken.
    """
    here, there = ranks[layer.number, one], ranks[layer.number, two]
    if here == there:
        return False
    shift = layer.loads[one] - layer.loads[two]
    heavier, load = (there, layer.rank_loads[there] + shift) if shift > 0 else (here, layer.rank_loads[here] - shift)
    if load > limit and load > layer.rank_loads[heavier]:
        return False
    prices = layer.prices
    if prices[one, there] - prices[one, here] + prices[two, here] - prices[two, there] > bar:
        return False
    for expert in (one, two):
        if layer.outdated[expert]:
            price_expert(visits, ranks, layer, expert)
    change = prices[one, there] - prices[one, here] + prices[two, here] - prices[two, there]
    if change > bar:
        return False
    change += _joint_change(visits, layer, one, two, here, there, ranks.shape[1])
    if change > bar or (bar == 0.0 and change >= -LEAST_GAIN * abs(prices[one, here] + prices[two, there])):
        return False
    _move(visits, ranks, layer, one, there)
    _move(visits, ranks, layer, two, here)
    layer.rank_loads[here] -= shift
    layer.rank_loads[there] += shift
    layer.outdated[:] = True
    return True


@njit(cache=True)
def _joint_change(visits: Visits, layer: Layer, one: int, two: int, here: int, there: int, num_experts: int) -> float:
    """What an exchange costs beyond the prices of its two experts, from the visits to both."""
    first, key = visits.begin[layer.number], layer.number * num_experts + one
    excess = 0.0
    for member in range(visits.members_begin[key], visits.members_begin[key + 1]):
        row = visits.members[member]
        mine, theirs = -1, -1
        for choice in range(visits.experts.shape[1]):
            if visits.experts[row, choice] == one:
                mine = choice
            elif visits.experts[row, choice] == two:
                theirs = choice
        if theirs < 0:
            continue
        held, start = layer.held[row - first].copy(), int(layer.start[row - first])
        change = visit_cost(visits, held, start)
        held[mine] = there
        change -= visit_cost(visits, held, start)
        held[theirs] = here
        change += visit_cost(visits, held, start)
        held[mine] = here
        change -= visit_cost(visits, held, start)
        excess += float(visits.tokens[row]) * change
    return excess


@njit(cache=True)
def _move(visits: Visits, ranks: NDArray[np.int64], layer: Layer, expert: int, rank: int) -> None:
    first, key = visits.begin[layer.number], layer.number * ranks.shape[1] + expert
    ranks[layer.number, expert] = rank
    for member in range(visits.members_begin[key], visits.members_begin[key + 1]):
        row = visits.members[member]
        for choice in range(visits.experts.shape[1]):
            if visits.experts[row, choice] == expert:
                layer.held[row - first, choice] = rank


@njit(cache=True)
def price_expert(visits: Visits, ranks: NDArray[np.int64], layer: Layer, expert: int) -> None:
    """Price an expert of a layer on each rank while all others stay, up to a constant."""
    num_ranks, choices = len(visits.cost), visits.experts.shape[1]
    first, key = visits.begin[layer.number], layer.number * ranks.shape[1] + expert
    prices, cost, back = layer.prices[expert], visits.cost, visits.back
    prices[:] = 0.0
    layer.outdated[expert] = False
    seen = np.full(num_ranks, -1)
    for member in range(visits.members_begin[key], visits.members_begin[key + 1]):
        row = visits.members[member]
        held, start, tokens = layer.held[row - first], layer.start[row - first], visits.tokens[row]
        is_anchor = visits.experts[row, 0] == expert
        out, home = cost[held[0] if start < 0 else start], back[held[0]]
        if not is_anchor:
            for rank in range(num_ranks):
                prices[rank] += tokens * (out[rank] + home[rank])
        elif start >= 0:
            for rank in range(num_ranks):
                prices[rank] += tokens * out[rank]
        for choice in range(choices):
            rank = held[choice]
            if rank < 0 or seen[rank] == row or visits.experts[row, choice] == expert:
                continue
            seen[rank] = row
            if not is_anchor:
                prices[rank] -= tokens * (out[rank] + home[rank])
            elif start >= 0:
                prices[rank] -= tokens * out[rank]
                copy = out[rank]
                for end in range(num_ranks):
                    prices[end] += tokens * (copy + cost[rank, end])
            else:
                for end in range(num_ranks):
                    prices[end] += tokens * (back[rank, end] + cost[rank, end])
    _price_leaving(visits, ranks, layer.number, expert, prices)


@njit(cache=True)
def _price_leaving(
    visits: Visits, ranks: NDArray[np.int64], number: int, expert: int, prices: NDArray[np.float64]
) -> None:
    """Add what the tokens of an expert pay to leave from each rank."""
    num_ranks, choices = len(visits.cost), visits.experts.shape[1]
    key = number * ranks.shape[1] + expert
    reached = np.zeros(num_ranks)
    seen = np.full(num_ranks, -1)
    to_layer = number
    for leaver in range(visits.leavers_begin[key], visits.leavers_begin[key + 1]):
        row = visits.leavers[leaver]
        while row >= visits.begin[to_layer + 1]:
            to_layer += 1
        for choice in range(choices):
            other = visits.experts[row, choice]
            if other >= 0:
                rank = ranks[to_layer, other]
                if seen[rank] != row:
                    seen[rank] = row
                    reached[rank] += visits.tokens[row]
    for begin in range(num_ranks):
        for rank in range(num_ranks):
            prices[begin] += reached[rank] * visits.cost[begin, rank]


@njit(cache=True)
def layer_of(visits: Visits, row: int) -> int:
    """Layer of a visit."""
    return int(np.searchsorted(visits.begin, row, side="right")) - 1
