"""The compiled inner loop of the copies solver: exchange two experts of a layer while that saves copies.

Shape legend: N distinct choice sets of a layer, K choices, E experts, G ranks.
"""

import numpy as np
from numba import njit


@njit(cache=True)
def descend(experts, homes, tokens, cost, starts, members, ranks):
    """Exchange the pair of experts that saves most, until none saves anything; `ranks` is changed in place.

    Args:
        experts: Choice sets, -1 where there is no choice, int64 [N, K].
        homes: Rank of the tokens of each set, int64 [N].
        tokens: Tokens of each set, float64 [N].
        cost: Cost of a copy's way there and back, float64 [G, G].
        starts: First entry of each expert in `members`, int64 [E + 1].
        members: Rows that hold each expert, int64.
        ranks: Rank of each expert, int64 [E].

    Returns:
        Number of exchanges.
    """
    num_experts, num_ranks = len(ranks), len(cost)
    held = np.zeros((len(experts), num_ranks), np.int64)
    leave = np.zeros((num_experts, num_ranks))
    together = np.zeros((num_experts, num_experts))
    least = 0.0
    for row in range(len(experts)):
        for expert in experts[row]:
            if expert >= 0:
                held[row, ranks[expert]] += 1
                least += tokens[row] * cost[homes[row], ranks[expert]]
        _weigh(experts[row], tokens[row], cost[homes[row]], held[row], ranks, leave, together)
    least *= 1e-12
    exchanges = 0
    while True:
        best, one, other = -least, -1, -1
        for first in range(num_experts):
            for second in range(first):
                here, there = ranks[first], ranks[second]
                if here != there:
                    change = leave[first, there] + leave[second, here] + together[first, second]
                    if change < best:
                        best, one, other = change, first, second
        if one < 0:
            return exchanges
        exchanges += 1
        here, there = ranks[one], ranks[other]
        for sign in (-1.0, 1.0):
            for expert in (one, other):
                for entry in range(starts[expert], starts[expert + 1]):
                    row = members[entry]
                    if expert == other and (experts[row] == one).any():
                        continue
                    _weigh(experts[row], sign * tokens[row], cost[homes[row]], held[row], ranks, leave, together)
            if sign < 0:
                ranks[one], ranks[other] = there, here
                for entry in range(starts[one], starts[one + 1]):
                    held[members[entry], here] -= 1
                    held[members[entry], there] += 1
                for entry in range(starts[other], starts[other + 1]):
                    held[members[entry], there] -= 1
                    held[members[entry], here] += 1


@njit(cache=True)
def _weigh(experts, tokens, cost, held, ranks, leave, together):
    """Add the effect of one set: a move saves a copy if the expert was the only one of the set on its rank, and costs a
    copy if its new rank held none; an exchange of two experts of the set changes no copies."""
    for expert in experts:
        if expert < 0:
            continue
        here = ranks[expert]
        saved = tokens * cost[here] if held[here] == 1 else 0.0
        for rank in range(len(held)):
            leave[expert, rank] += (tokens * cost[rank] if held[rank] == 0 else 0.0) - saved
        if saved != 0.0:
            for partner in experts:
                if partner >= 0 and ranks[partner] != here:
                    together[expert, partner] += saved
                    together[partner, expert] += saved
