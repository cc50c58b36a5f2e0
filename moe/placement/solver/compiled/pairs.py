"""Moves of two ranks in all layers at once, compiled by numba.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, M experts of two ranks that a
re-split may move, half of them on either rank, S states of a re-split.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moe.placement.solver.compiled.layers import LEAST_GAIN, Traffic, mark_neighbours, sweep

_TRIES = 2  # draws of movable experts for a pair of ranks that have more than can move


@njit(cache=True)
def descend(
    traffic: Traffic,
    settled: NDArray[np.int64],
    ranks: NDArray[np.int64],
    states: NDArray[np.int64],
    seed: int,
    budget: int,
) -> int:
    """Sweep layers and re-split pairs of ranks until neither gains; returns the work, about additions of re-splits.

    Args:
        traffic: Counts and cost.
        settled: A local optimum, [L, E]; the search begins where `ranks` differs from it.
        ranks: Rank of each expert, [L, E]; changed, never to an assignment of higher cost.
        states: Ways to divide the M movable experts of two ranks, as in `resplit`, [S, M / 2].
        seed: Seed of the draws of movable experts where two ranks have more than M.
        budget: Work after which it stops early.
    """
    num_layers, num_experts = ranks.shape
    num_ranks = len(traffic.cost)
    num_states, half = states.shape
    complete = num_ranks * half == num_experts
    tries = 1 if complete else _TRIES
    stale_layers = np.zeros(num_layers, np.bool_)
    stale_pairs = np.zeros((num_ranks, num_ranks), np.int64)
    before = settled.copy()
    np.random.seed(seed)  # noqa: NPY002  (numba's own state)
    work = 0
    gained = True
    while gained:
        _mark_changes(traffic, before, ranks, stale_layers, stale_pairs, tries)
        _copy(ranks, before)
        sweep(traffic, ranks, stale_layers)
        _mark_changes(traffic, before, ranks, stale_layers, stale_pairs, tries)
        for layer in range(num_layers):
            stale_layers[layer] = False
        gained = False
        for first in range(num_ranks):
            for second in range(first + 1, num_ranks):
                while stale_pairs[first, second] > 0 and work < budget:
                    stale_pairs[first, second] -= 1
                    work += num_layers * half * (num_states**2 + 4 * num_experts)
                    movable = _movable(traffic, ranks, first, second, half)
                    _copy(ranks, before)
                    if resplit(traffic, ranks, first, second, movable, states) > 0:
                        gained = True
                        _mark_changes(traffic, before, ranks, stale_layers, stale_pairs, tries)
                        if complete:
                            stale_pairs[first, second] = 0
    return work


@njit(cache=True)
def _mark_changes(
    traffic: Traffic,
    before: NDArray[np.int64],
    ranks: NDArray[np.int64],
    stale_layers: NDArray[np.bool_],
    stale_pairs: NDArray[np.int64],
    tries: int,
) -> None:
    """Mark the layers and pairs of ranks that may gain again after experts have moved."""
    for layer in range(len(ranks)):
        changed = False
        for expert in range(ranks.shape[1]):
            old, new = before[layer, expert], ranks[layer, expert]
            if old != new:
                changed = True
                for rank in (old, new):
                    for other in range(len(stale_pairs)):
                        stale_pairs[rank, other] = tries
                        stale_pairs[other, rank] = tries
        if changed:
            mark_neighbours(traffic, stale_layers, layer)


@njit(cache=True)
def _copy(source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
    """target[:] = source, which takes numba long to compile."""
    for row in range(source.shape[0]):
        for column in range(source.shape[1]):
            target[row, column] = source[row, column]


@njit(cache=True)
def _movable(traffic: Traffic, ranks: NDArray[np.int64], first: int, second: int, half: int) -> NDArray[np.int64]:
    """Draw experts of two ranks in one layer and follow the traffic from them to both sides, [L, 2 * half]."""
    num_layers, num_experts = ranks.shape
    movable = np.empty((num_layers, 2 * half), np.int64)
    if len(traffic.cost) * half == num_experts:
        for layer in range(num_layers):
            i, j = 0, half
            for expert in range(num_experts):
                if ranks[layer, expert] == first:
                    movable[layer, i] = expert
                    i += 1
                elif ranks[layer, expert] == second:
                    movable[layer, j] = expert
                    j += 1
        return movable
    score = np.empty(num_experts)
    origin = np.random.randint(num_layers)  # noqa: NPY002
    for turn in range(num_layers):
        layer = origin + turn if origin + turn < num_layers else num_layers - 1 - turn
        for expert in range(num_experts):
            score[expert] = 0.0 if turn else np.random.random()  # noqa: NPY002
        if turn:
            for i in range(2 * half):
                if layer > origin:
                    _add(traffic.forward[layer - 1, movable[layer - 1, i]], score)
                else:
                    _add(traffic.backward[layer, movable[layer + 1, i]], score)
        for i in range(2 * half):
            rank = first if i < half else second
            chosen = -1
            for expert in range(num_experts):
                if ranks[layer, expert] == rank and (chosen < 0 or score[expert] > score[chosen]):
                    chosen = expert
            movable[layer, i] = chosen
            score[chosen] = -1.0
    return movable


@njit(cache=True)
def _add(terms: NDArray[np.float64], sums: NDArray[np.float64]) -> None:
    """sums += terms, which takes numba long to compile."""
    for i in range(len(terms)):
        sums[i] += terms[i]


@njit(cache=True)
def resplit(
    traffic: Traffic,
    ranks: NDArray[np.int64],
    first: int,
    second: int,
    movable: NDArray[np.int64],
    states: NDArray[np.int64],
) -> float:
    """Divide experts of two ranks anew in all layers at once, at least cost: Viterbi over the ways to divide a layer.

    With y = 1 on the first rank and 0 on the second, tokens W between two movable experts cost
    W (there y (1 - y') + back (1 - y) y') = there W y + back W y' - (there + back) W y y', so a layer's own terms are
    linear and only the last one links layers. Jumps are priced as if their other end stayed; where that is wrong the
    true cost decides, and a division that does not lower it is not taken. Returns what the division saves, else 0.

    Args:
        traffic: Counts and cost.
        ranks: Rank of each expert, [L, E]; changed if that gains.
        first: A rank.
        second: Another rank.
        movable: Experts to be divided in each layer, those now on the first rank before those on the second, [L, M].
        states: Which of the movable experts a state puts on the first rank, in lexicographic order; the first state
            is the present one, [S, M / 2].
    """
    num_layers, count = movable.shape
    num_states = len(states)
    both = traffic.cost[first, second] + traffic.cost[second, first]
    own = _own_prices(traffic, ranks, first, second, movable)
    least = np.zeros((num_layers, num_states))
    links = np.zeros((num_layers, count, num_states))
    link = np.empty(count)
    stay = 0.0
    for layer in range(num_layers):
        if layer > 0:
            for j in range(count):
                for i in range(count):
                    link[i] = -both * traffic.forward[layer - 1, movable[layer - 1, i], movable[layer, j]]
                for state in range(num_states):
                    for i in states[state]:
                        links[layer, j, state] += link[i]
            _least_sums(least[layer - 1], links[layer], states, least[layer])
        for state in range(num_states):
            for j in states[state]:
                least[layer, state] += own[layer, j]
        if traffic.limits[layer] < np.inf:
            _drop_overloads(traffic, ranks, layer, first, second, movable[layer], states, least[layer])
        for j in states[0]:
            stay += links[layer, j, 0] + own[layer, j]
    state = least[-1].argmin()
    gain = stay - least[-1, state]
    if gain <= LEAST_GAIN * abs(stay):
        return 0.0
    before = ranks.copy()
    for layer in range(num_layers - 1, -1, -1):
        for expert in movable[layer]:
            ranks[layer, expert] = second
        for i in states[state]:
            ranks[layer, movable[layer, i]] = first
        if layer > 0:
            origins = least[layer - 1]
            for j in states[state]:
                _add(links[layer, j], origins)
            state = origins.argmin()
    gain -= _misjudged_jumps(traffic, before, ranks)
    if gain <= LEAST_GAIN * abs(stay):
        _copy(before, ranks)
        return 0.0
    return gain


@njit(cache=True)
def _drop_overloads(
    traffic: Traffic,
    ranks: NDArray[np.int64],
    layer: int,
    first: int,
    second: int,
    movable: NDArray[np.int64],
    states: NDArray[np.int64],
    least: NDArray[np.float64],
) -> None:
    """Make the states infinitely dear under which one of the two ranks computes more than the limit of the layer."""
    loads, limit = traffic.loads[layer], traffic.limits[layer]
    here, there, both = 0.0, 0.0, 0.0
    for expert in range(ranks.shape[1]):
        if ranks[layer, expert] == first:
            here += loads[expert]
        elif ranks[layer, expert] == second:
            there += loads[expert]
    for place in range(len(movable)):
        both += loads[movable[place]]
        if ranks[layer, movable[place]] == first:
            here -= loads[movable[place]]
        else:
            there -= loads[movable[place]]
    for state in range(1, len(states)):
        moved = 0.0
        for j in states[state]:
            moved += loads[movable[j]]
        if here + moved > limit or there + both - moved > limit:
            least[state] = np.inf


@njit(cache=True)
def _least_sums(
    start: NDArray[np.float64], links: NDArray[np.float64], states: NDArray[np.int64], least: NDArray[np.float64]
) -> None:
    """least[s'] = min over s of start[s] + sum of links[j, s] over j in state s'; like beginnings share their sums."""
    num_states, half = states.shape
    sums = np.empty((half + 1, num_states))
    for state in range(num_states):
        sums[0, state] = start[state]
    for state in range(num_states):
        shared = 0
        while state > 0 and states[state, shared] == states[state - 1, shared]:
            shared += 1
        for place in range(shared, half):
            shorter, longer, link = sums[place], sums[place + 1], links[states[state, place]]
            for origin in range(num_states):
                longer[origin] = shorter[origin] + link[origin]
        smallest = np.inf
        for length in sums[half]:
            if length < smallest:
                smallest = length
        least[state] = smallest


@njit(cache=True)
def _own_prices(
    traffic: Traffic, ranks: NDArray[np.int64], first: int, second: int, movable: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Extra cost of a movable expert on the first rank over the second, without the last term of `resplit`, [L, M]."""
    num_layers, num_experts = ranks.shape
    out, back = traffic.cost[first] - traffic.cost[second], traffic.cost[:, first] - traffic.cost[:, second]
    departing, arrived = np.empty((num_layers, num_experts)), np.empty((num_layers, num_experts))
    own_jumps = np.zeros((num_layers, num_experts))
    for layer in range(num_layers):
        for expert in range(num_experts):
            departing[layer, expert] = out[ranks[layer, expert]]
            arrived[layer, expert] = back[ranks[layer, expert]]
    for from_layer, to_layer, i, j, tokens in traffic.departures:
        own_jumps[from_layer, i] += tokens * departing[to_layer, j]
        own_jumps[to_layer, j] += tokens * arrived[from_layer, i]
    for layer in range(num_layers):
        for expert in movable[layer]:
            departing[layer, expert] = traffic.cost[first, second]
            arrived[layer, expert] = traffic.cost[second, first]
    own = np.empty(movable.shape)
    for layer in range(num_layers):
        experts = movable[layer]
        for i in range(len(experts)):
            own[layer, i] = own_jumps[layer, experts[i]]
        for other in range(num_experts):
            if layer + 1 < num_layers and departing[layer + 1, other] != 0.0:
                for i in range(len(experts)):
                    own[layer, i] += traffic.backward[layer, other, experts[i]] * departing[layer + 1, other]
            if layer > 0 and arrived[layer - 1, other] != 0.0:
                for i in range(len(experts)):
                    own[layer, i] += traffic.forward[layer - 1, other, experts[i]] * arrived[layer - 1, other]
    return own


@njit(cache=True)
def _misjudged_jumps(traffic: Traffic, before: NDArray[np.int64], ranks: NDArray[np.int64]) -> float:
    """Cost of jumps less their price in `resplit`, which is wrong only for jumps both of whose ends have moved."""
    excess = 0.0
    for from_layer, to_layer, i, j, tokens in traffic.departures:
        old, new = traffic.cost[before[from_layer, i]], traffic.cost[ranks[from_layer, i]]
        there, here = before[to_layer, j], ranks[to_layer, j]
        excess += tokens * (new[here] - new[there] - old[here] + old[there])
    return excess
