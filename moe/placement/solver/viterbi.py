"""Coherent dispatch exactly: Viterbi over all balanced assignments of a layer, where they are few.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, S balanced assignments.
"""

from collections.abc import Iterator
from math import factorial

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.coherent import degree_bound
from moe.placement.counts.layer_counts import jump_pairs
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.placement import slots_per_rank
from moe.placement.solver.descent import Descent
from moe.placement.solver.pair_moves import KICKS, WORK
from moe.placement.solver.protocol import Assignment
from moe.placement.solver.sweep import best_sweep
from moe.placement.topology import Topology

MOST_STATES = 5_040
_BLOCK = 512


def solve_viterbi(statistics: RoutingStatistics, topology: Topology, *, seed: int) -> Assignment:
    """Find the least coherent cost of all balanced assignments; a `PlacementSolver` that draws nothing without jumps.

    Jumps over dropped layers link layers that do not touch. With them the optimum without jumps, plus a bound on what
    jumps cost, is only a lower bound, and the assignment is searched from there by sweeps and pair moves.

    Raises:
        ValueError: A layer has more balanced assignments than can be tried, or the experts do not divide.
    """
    states = num_states(statistics.num_experts, topology.num_ranks)
    if states > MOST_STATES:
        raise ValueError(
            f"solver: viterbi tries all balanced assignments of a layer, at most {MOST_STATES:,} "
            f"({states:,} for {statistics.num_experts} experts on {topology.num_ranks} ranks); choose pair or staged"
        )
    ranks, cost = cheapest_path(statistics.transitions, topology.cost)
    if len(statistics.jumps) == 0:
        return Assignment(ranks, cost)
    generator = np.random.default_rng(seed)
    descent = Descent(statistics.transitions, statistics.jumps, topology.cost)
    ranks = min(ranks, best_sweep(descent, generator), key=descent.cost)
    ranks = descent.search(ranks, kicks=KICKS, work=WORK, generator=generator)
    return Assignment(ranks, cost + degree_bound(jump_pairs(statistics), topology.cost))


def num_states(num_experts: int, num_ranks: int) -> int:
    """Balanced assignments of one layer: E! / (S!)^G.

    Args:
        num_experts: Experts E per layer, a multiple of num_ranks.
        num_ranks: Ranks G.

    Returns:
        Their number.

    Raises:
        ValueError: The experts do not divide among the ranks.
    """
    return factorial(num_experts) // factorial(slots_per_rank(num_experts, num_ranks)) ** num_ranks


def cheapest_path(transitions: NDArray[np.int64], cost: NDArray[np.float64]) -> tuple[NDArray[np.int64], float]:
    """Assign all layers at the least cost of moves between consecutive layers.

    Args:
        transitions: Tokens between experts of consecutive layers, [L-1, E, E].
        cost: Cost of moving one token between ranks, [G, G].

    Returns:
        Rank of each expert, int64 [L, E]; and the cost of all moves.
    """
    num_experts, num_ranks = transitions.shape[1], len(cost)
    states = np.array(list(_balanced((num_experts // num_ranks,) * num_ranks)))
    on_rank = np.eye(num_ranks)[states].reshape(len(states), -1)
    least = np.zeros((len(transitions) + 1, len(states)))
    for gap, tokens in enumerate(transitions):
        prices = _prices(tokens, cost[states])
        for begin in range(0, len(states), _BLOCK):
            arriving = on_rank[begin : begin + _BLOCK] @ prices.T
            arriving += least[gap]
            least[gap + 1, begin : begin + _BLOCK] = arriving.min(axis=1)
    path = [int(least[-1].argmin())]
    for gap, tokens in reversed([*enumerate(transitions)]):
        path.append(int((least[gap] + _prices(tokens, cost[states]) @ on_rank[path[-1]]).argmin()))
    return states[path[::-1]], float(least[-1].min())


def _balanced(free_slots: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Ranks of the experts of a layer, [E], in every way that fills the free slots of each rank, [G]."""
    if not any(free_slots):
        yield ()
    for rank, free in enumerate(free_slots):
        if free:
            for others in _balanced((*free_slots[:rank], free - 1, *free_slots[rank + 1 :])):
                yield (rank, *others)


def _prices(tokens: NDArray[np.int64], departures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cost of the moves from every state to each expert on each rank, [S, E * G], from the cost to leave, [S, E, G]."""
    prices = np.tensordot(departures, tokens.astype(np.float64), axes=(1, 0))
    return prices.transpose(0, 2, 1).reshape(len(departures), -1)
