"""The compiled inner loop of the search by exchanges: tabu search over the exchanges of two experts of a layer.

What an exchange changes is kept in tables, so that judging one takes a few look-ups, and making one takes time only for
the choice sets that hold either expert. A place is a rank or a node; a token pays for each place that holds any of its
experts.

Shape legend: N distinct choice sets of a layer, K choices, E experts, G ranks, V levels of places, P most places of a
level.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class Layer(NamedTuple):
    """Choices of the tokens of a layer, and what they cost, as arrays for compiled code.

    Attributes:
        experts: Choice sets, -1 where there is no choice, int64 [N, K].
        homes: Rank of the tokens of each set, int64 [N].
        tokens: Tokens of each set, float64 [N].
        places: Place of each rank by level, int64 [V, G].
        prices: Price of a visit by level, home and place, float64 [V, G, P].
        base: Cost of an expert by rank, whatever the others do, float64 [G, E].
        begins: First entry of each expert in `members`, int64 [E + 1].
        members: Sets that hold each expert, int64.
        loads: Choices of each expert, float64 [E].
    """

    experts: NDArray[np.int64]
    homes: NDArray[np.int64]
    tokens: NDArray[np.float64]
    places: NDArray[np.int64]
    prices: NDArray[np.float64]
    base: NDArray[np.float64]
    begins: NDArray[np.int64]
    members: NDArray[np.int64]
    loads: NDArray[np.float64]


@njit(cache=True)
def search(layer, limit, evenness, ranks, steps, seed):
    """Exchange experts for a number of steps, and keep the cheapest assignment that respects the limit.

    Each step makes the best exchange of experts that have not moved lately, even if it loses. Load above the limit is
    charged at a rate that rises while the limit is broken, and falls while it is kept. Returns whether an assignment
    within the limit was met; if not, `ranks` is as it was.

    Args:
        layer: The layer, a `Layer`.
        limit: Most choices of one rank.
        evenness: Cost of a choice that a rank computes above the mean.
        ranks: Rank of each expert, int64 [E]; changed in place to the best assignment within the limit that was met.
        steps: Exchanges to be made.
        seed: Seed of the draws that say for how long an expert stays.
    """
    num_ranks, num_experts = layer.base.shape
    num_levels, num_places = layer.prices.shape[0], layer.prices.shape[2]
    held = np.zeros((num_levels, len(layer.experts), num_places), np.int16)
    gain = np.zeros((num_levels, num_places, num_experts))
    sole = np.zeros((num_levels, num_experts))
    together = np.zeros((num_levels, num_experts, num_experts))
    place = np.zeros((num_levels, num_experts), np.int64)
    now, moves, by_expert = ranks.copy(), np.zeros((num_ranks, num_experts)), np.zeros((num_experts, num_ranks))
    relief = np.zeros(num_ranks)
    for level in range(num_levels):
        for expert in range(num_experts):
            place[level, expert] = layer.places[level, now[expert]]
    total = _fill(layer, place, held, gain, sole, together)
    load, mean = np.zeros(num_ranks), layer.loads.sum() / num_ranks
    for expert in range(num_experts):
        load[now[expert]] += layer.loads[expert]
        total += layer.base[now[expert], expert]
    charge = max(total / max(layer.loads.sum(), 1.0), 1e-300)
    least = 1e-12 * max(total, 1e-300)
    excess = 0.0
    for rank in range(num_ranks):
        excess += max(load[rank] - limit, 0.0)
        total += evenness * max(load[rank] - mean, 0.0)
    met, best = excess <= 0.0, total
    rested = np.zeros(num_experts, np.int64)
    state, broken = np.uint64(seed), 0
    for step in range(1, steps + 1):
        _tabulate(layer, now, place, gain, sole, moves, by_expert)
        for rank in range(num_ranks):
            relief[rank] = evenness * max(load[rank] - mean, 0.0) + charge * max(load[rank] - limit, 0.0)
        chosen, one, other, change = np.inf, -1, -1, 0.0
        for first in range(1, num_experts):
            here = now[first]
            for second in range(first):
                there = now[second]
                difference = by_expert[first, there] + moves[here, second]
                if here == there or difference - relief[here] - relief[there] >= chosen:
                    continue
                for level in range(num_levels):
                    if place[level, first] != place[level, second]:
                        difference += together[level, first, second]
                shift = layer.loads[second] - layer.loads[first]
                before, after = load[here], load[here] + shift
                before_there, after_there = load[there], load[there] - shift
                difference += evenness * (
                    max(after - mean, 0.0)
                    + max(after_there - mean, 0.0)
                    - max(before - mean, 0.0)
                    - max(before_there - mean, 0.0)
                )
                heavier = max(after - limit, 0.0) + max(after_there - limit, 0.0)
                heavier -= max(before - limit, 0.0) + max(before_there - limit, 0.0)
                judged = difference + charge * heavier
                if judged >= chosen:
                    continue
                resting = rested[first] >= step or rested[second] >= step
                if resting and (excess + heavier > 1e-9 * mean or (met and total + difference >= best - least)):
                    continue
                chosen, one, other, change = judged, first, second, difference
        if one < 0:
            continue
        here, there = now[one], now[other]
        _move(layer, one, there, now, place, held, gain, sole, together)
        _move(layer, other, here, now, place, held, gain, sole, together)
        load[here] += layer.loads[other] - layer.loads[one]
        load[there] += layer.loads[one] - layer.loads[other]
        total += change
        excess = 0.0
        for rank in range(num_ranks):
            excess += max(load[rank] - limit, 0.0)
        if excess <= 0.0:
            broken = min(broken, 0) - 1
            if not met or total < best - least:
                met, best = True, total
                ranks[:] = now
        else:
            broken = max(broken, 0) + 1
        if broken >= 5:
            charge, broken = charge * 1.5, 0
        elif broken <= -5:
            charge, broken = charge / 1.5, 0
        for expert in (one, other):
            state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            rested[expert] = step + 2 + num_experts // 16 + int(state >> np.uint64(33)) % (1 + num_experts // 8)
    return met


@njit(cache=True)
def count_visits(layer, ranks):
    """Count the tokens of a `Layer` that visit each place, by level, home and place, float64 [V, G, P]."""
    visits = np.zeros(layer.prices.shape)
    for level in range(len(layer.places)):
        seen = np.full(layer.prices.shape[2], -1)
        for row in range(len(layer.experts)):
            for expert in layer.experts[row]:
                if expert >= 0:
                    place = layer.places[level, ranks[expert]]
                    if seen[place] != row:
                        seen[place] = row
                        visits[level, layer.homes[row], place] += layer.tokens[row]
    return visits


@njit(cache=True)
def _fill(layer, place, held, gain, sole, together):
    """Fill the tables for an assignment and return the price of all visits.

    `held` counts the experts of a set on each place; `gain` adds up the price of a visit that an expert on a further
    place would cause; `sole` that of visits for one expert only; `together` that of sole visits of sets with both.
    """
    total = 0.0
    num_choices = layer.experts.shape[1]
    for level in range(len(layer.places)):
        for row in range(len(layer.experts)):
            experts = layer.experts[row]
            for choice in range(num_choices):
                if experts[choice] >= 0:
                    held[level, row, place[level, experts[choice]]] += 1
            for where in range(layer.prices.shape[2]):
                price = layer.tokens[row] * layer.prices[level, layer.homes[row], where]
                if held[level, row, where] > 0:
                    total += price
                else:
                    for choice in range(num_choices):
                        if experts[choice] >= 0:
                            gain[level, where, experts[choice]] += price
            for choice in range(num_choices):
                expert = experts[choice]
                if expert >= 0 and held[level, row, place[level, expert]] == 1:
                    price = layer.tokens[row] * layer.prices[level, layer.homes[row], place[level, expert]]
                    _count_alone(layer.experts, row, expert, price, level, sole, together)
    return total


@njit(cache=True)
def _tabulate(layer, now, place, gain, sole, moves, by_expert):
    """Cost of moving each expert to each rank alone, [G, E] and [E, G]; not for the rank that it is on.

    What an exchange of two experts costs is at least the sum of both: visits of sets that hold both are counted twice
    as saved, which `together` makes up for.
    """
    for rank in range(moves.shape[0]):
        for expert in range(moves.shape[1]):
            moves[rank, expert] = layer.base[rank, expert] - layer.base[now[expert], expert]
        for level in range(len(place)):
            where = layer.places[level, rank]
            for expert in range(moves.shape[1]):
                if place[level, expert] != where:
                    moves[rank, expert] += gain[level, where, expert] - sole[level, expert]
        for expert in range(moves.shape[1]):
            by_expert[expert, rank] = moves[rank, expert]


@njit(cache=True)
def _move(layer, expert, target, now, place, held, gain, sole, together):
    """Move one expert to a rank and correct the tables."""
    now[expert] = target
    sets, members, homes, tokens, prices = layer.experts, layer.members, layer.homes, layer.tokens, layer.prices
    for level in range(len(place)):
        near, far = place[level, expert], layer.places[level, target]
        if near == far:
            continue
        for entry in range(layer.begins[expert], layer.begins[expert + 1]):
            row = members[entry]
            left, joined = held[level, row, near], held[level, row, far]
            held[level, row, near], held[level, row, far] = left - 1, joined + 1
            leaving = tokens[row] * prices[level, homes[row], near]
            coming = tokens[row] * prices[level, homes[row], far]
            if left == 1:
                _count_alone(sets, row, expert, -leaving, level, sole, together)
                _count_gain(sets, row, near, leaving, level, gain)
            elif left == 2:
                other = _other_on(sets, row, expert, near, level, place)
                _count_alone(sets, row, other, leaving, level, sole, together)
            if joined == 0:
                _count_alone(sets, row, expert, coming, level, sole, together)
                _count_gain(sets, row, far, -coming, level, gain)
            elif joined == 1:
                other = _other_on(sets, row, expert, far, level, place)
                _count_alone(sets, row, other, -coming, level, sole, together)
        place[level, expert] = far


@njit(cache=True)
def _other_on(sets, row, expert, where, level, place):
    """The first other expert of a set on a place."""
    for choice in range(sets.shape[1]):
        other = sets[row, choice]
        if other >= 0 and other != expert and place[level, other] == where:
            return other
    return -1


@njit(cache=True)
def _count_gain(sets, row, where, price, level, gain):
    """Add the price of a visit that any expert of a set would cause on a place."""
    for choice in range(sets.shape[1]):
        if sets[row, choice] >= 0:
            gain[level, where, sets[row, choice]] += price


@njit(cache=True)
def _count_alone(sets, row, expert, price, level, sole, together):
    """Add the price of a visit for one expert of a set only; taken back where the price is negative."""
    sole[level, expert] += price
    for choice in range(sets.shape[1]):
        other = sets[row, choice]
        if other >= 0 and other != expert:
            together[level, expert, other] += price
            together[level, other, expert] += price
