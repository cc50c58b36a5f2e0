"""All balanced assignments of a layer tried, where they are few: exact in dispatch modes whose layers are independent.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, S balanced assignments.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.solver.layer_search import LayerProblem, layer_problems
from moe.placement.solver.protocol import Assignment
from moe.placement.solver.viterbi import MOST_STATES, num_states
from moe.placement.topology import Topology
from moe.routing_trace import DROPPED


class Enumeration:
    """Tries every balanced assignment of every layer; a `PlacementSolver` that draws nothing."""

    def __init__(self, dispatch: Dispatch) -> None:
        """Sets up the solver.

        Args:
            dispatch: Dispatch mode whose cost is minimised: home, copies or hierarchical.
        """
        self._dispatch: Dispatch = dispatch

    def __call__(
        self,
        statistics: RoutingStatistics,
        topology: Topology,
        *,
        seed: int,
        limits: NDArray[np.float64] | None = None,
    ) -> Assignment:
        """Find the least cost of all balanced assignments within the limits.

        Raises:
            ValueError: A layer has more balanced assignments than can be tried, or the experts do not divide.
        """
        del seed
        count = num_states(statistics.num_experts, topology.num_ranks)
        if count > MOST_STATES:
            raise ValueError(
                f"solver: enumeration tries all balanced assignments of a layer, at most {MOST_STATES:,} "
                f"({count:,} for {statistics.num_experts} experts on {topology.num_ranks} ranks); choose auto"
            )
        ranks, bound = cheapest_within(statistics, topology, self._dispatch, [limits])[0]
        return Assignment(ranks, bound)


def cheapest_within(
    statistics: RoutingStatistics,
    topology: Topology,
    dispatch: Dispatch,
    limits: Sequence[NDArray[np.float64] | None],
) -> list[tuple[NDArray[np.int64], float]]:
    """Find the cheapest balanced assignments under several limits, for which all are priced once.

    Args:
        statistics: Counts of the routing trace, of few experts and ranks.
        topology: Ranks and what a move between them costs.
        dispatch: home, copies or hierarchical.
        limits: Most choices of one rank by layer, [L], or None; each can be kept.

    Returns:
        Rank of each expert, int64 [L, E], and the cost, for each of the limits.
    """
    states = balanced_assignments(statistics.num_experts, topology.num_ranks)
    best = np.zeros((len(limits), statistics.num_layers), np.int64)
    costs = np.zeros(len(limits))
    for layer, problem in enumerate(layer_problems(statistics, topology, dispatch, None)):
        prices, busiest = prices_of_all(problem, states), _busiest(problem, states)
        for index, limit in enumerate(limits):
            allowed = prices if limit is None else np.where(busiest <= limit[layer], prices, np.inf)
            best[index, layer] = allowed.argmin()
            costs[index] += allowed.min()
    return [(states[chosen], float(cost)) for chosen, cost in zip(best, costs, strict=True)]


def balanced_assignments(num_experts: int, num_ranks: int) -> NDArray[np.int64]:
    """List every assignment of the experts of a layer with as many on every rank.

    Args:
        num_experts: Experts E, a multiple of the ranks.
        num_ranks: Ranks G.

    Returns:
        Rank of each expert, int64 [S, E], in ascending order: the first is the contiguous assignment.
    """
    found = np.zeros((1, 0), np.int64)
    for _ in range(num_experts):
        longer = np.concatenate(
            [np.repeat(found, num_ranks, axis=0), np.tile(np.arange(num_ranks), len(found))[:, None]], axis=1
        )
        held = (longer[:, :, None] == longer[:, -1, None, None]).sum(axis=(1, 2))
        found = longer[held <= num_experts // num_ranks]
    return found


def prices_of_all(problem: LayerProblem, states: NDArray[np.int64]) -> NDArray[np.float64]:
    """Price many assignments of a layer.

    Args:
        problem: The layer.
        states: Rank of each expert, [S, E].

    Returns:
        Costs, [S].
    """
    total = problem.base[states, np.arange(states.shape[1])].sum(axis=1)
    for places, prices in zip(problem.places, problem.prices, strict=True):
        bits = 1 << places[states]
        for experts, home, tokens in zip(problem.experts, problem.homes, problem.tokens, strict=True):
            visited = np.bitwise_or.reduce(bits[:, experts[experts != DROPPED]], axis=1)
            for place in np.flatnonzero(prices[home]):
                total += tokens * prices[home, place] * (visited >> place & 1)
    return total


def _busiest(problem: LayerProblem, states: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.stack([(states == rank) @ problem.loads for rank in range(problem.num_ranks)]).max(axis=0)
