"""All balanced assignments of a layer tried, where they are few: exact, by Viterbi's algorithm in coherent dispatch.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, S balanced assignments.
"""

from collections.abc import Sequence
from math import factorial

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.coherent import degree_bound
from moe.placement.counts import RoutingStatistics, jump_pairs
from moe.placement.placement import Dispatch, slots_per_rank
from moe.placement.solver.coherent import KICKS, WORK, best_sweep, descent_within
from moe.placement.solver.descent import Annealing, anchor_visits
from moe.placement.solver.protocol import Assignment
from moe.placement.solver.swaps import LayerProblem, layer_problems
from moe.placement.topology import Topology
from moe.routing_trace import DROPPED

MOST_STATES = 5_040
_BLOCK = 512


def solve_enumeration(
    dispatch: Dispatch,
    statistics: RoutingStatistics,
    topology: Topology,
    *,
    seed: int,
    limits: NDArray[np.float64] | None = None,
) -> Assignment:
    """Try every balanced assignment of every layer; for home, copies or hierarchical a `PlacementSolver`."""
    del seed
    count = num_states(statistics.num_experts, topology.num_ranks)
    if count > MOST_STATES:
        raise ValueError(
            f"solver: enumeration tries all balanced assignments of a layer, at most {MOST_STATES:,} "
            f"({count:,} for {statistics.num_experts} experts on {topology.num_ranks} ranks); choose auto"
        )
    return Assignment(*cheapest_within(statistics, topology, dispatch, [limits])[0])


def cheapest_within(
    statistics: RoutingStatistics, topology: Topology, dispatch: Dispatch, limits: Sequence[NDArray[np.float64] | None]
) -> list[tuple[NDArray[np.int64], float]]:
    """Find the cheapest balanced assignments, int64 [L, E], and their costs under several limits; all are priced once.

    Each limit [L] can be kept; None for no limit. Dispatch is home, copies or hierarchical.
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
    """List every assignment of the experts of a layer with as many on every rank, int64 [S, E], in ascending order.

    The first is the contiguous assignment.
    """
    assignments = np.zeros((1, 0), np.int64)
    for _ in range(num_experts):
        longer = np.concatenate(
            [np.repeat(assignments, num_ranks, axis=0), np.tile(np.arange(num_ranks), len(assignments))[:, None]],
            axis=1,
        )
        held = (longer[:, :, None] == longer[:, -1, None, None]).sum(axis=(1, 2))
        assignments = longer[held <= num_experts // num_ranks]
    return assignments


def prices_of_all(problem: LayerProblem, states: NDArray[np.int64]) -> NDArray[np.float64]:
    """Price many assignments of a layer, [S, E]."""
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


def solve_viterbi(
    statistics: RoutingStatistics, topology: Topology, *, seed: int, limits: NDArray[np.float64] | None = None
) -> Assignment:
    """Find the least coherent cost of all balanced assignments; a `PlacementSolver` that draws nothing without jumps.

    Assignments of a layer that break its limit drop out. Jumps over dropped layers link layers that do not touch. With
    them the optimum without jumps, plus a bound on what jumps cost, is only a lower bound, and the assignment is
    searched from there by exchanges.
    """
    states = num_states(statistics.num_experts, topology.num_ranks)
    if states > MOST_STATES:
        raise ValueError(
            f"solver: viterbi tries all balanced assignments of a layer, at most {MOST_STATES:,} "
            f"({states:,} for {statistics.num_experts} experts on {topology.num_ranks} ranks); choose pair"
        )
    ranks, cost = cheapest_path(statistics, topology.cost, limits)
    if len(statistics.jumps) == 0:
        return Assignment(ranks, cost)
    if statistics.visits is not None:
        annealing = Annealing(statistics, topology, limits)
        generator = np.random.default_rng(seed)
        ranks = annealing.search(ranks, work=WORK // 3, generator=generator)
        return Assignment(ranks, cost + degree_bound(jump_pairs(statistics), topology.cost))
    generator = np.random.default_rng(seed)
    descent, start = descent_within(statistics, topology, limits)
    ranks = min(ranks, best_sweep(descent, generator, start), key=descent.cost)
    ranks = descent.search(ranks, kicks=KICKS, work=WORK, generator=generator)
    return Assignment(ranks, cost + degree_bound(jump_pairs(statistics), topology.cost))


def num_states(num_experts: int, num_ranks: int) -> int:
    """Balanced assignments of one layer: E! / (S!)^G."""
    return factorial(num_experts) // factorial(slots_per_rank(num_experts, num_ranks)) ** num_ranks


def cheapest_path(
    statistics: RoutingStatistics, cost: NDArray[np.float64], limits: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.int64], float]:
    """Assign all layers, [L, E], at the least cost of moves between consecutive layers, and of copies; returns it too.

    For tokens that jump over layers, the move to the layer where they arrive is not priced.
    """
    return cheapest_paths(statistics, cost, [limits])[0]


def cheapest_paths(
    statistics: RoutingStatistics, cost: NDArray[np.float64], limits: Sequence[NDArray[np.float64] | None]
) -> list[tuple[NDArray[np.int64], float]]:
    """Returns the results of `cheapest_path` under several limits; the moves are priced only once."""
    num_experts, num_ranks = statistics.num_experts, len(cost)
    states = balanced_assignments(num_experts, num_ranks)
    on_rank = np.eye(num_ranks)[states].reshape(len(states), -1)
    visits = anchor_visits(statistics) if statistics.visits is None else statistics.visits
    steps, busiest = [], []
    for layer in range(statistics.num_layers):
        rows = visits.rows[:, 0] == layer
        steps.append(_prices(visits.rows[rows, 1:], visits.tokens[rows], layer, states, cost))
        loads = np.tensordot(statistics.loads[layer], np.eye(num_ranks)[states], axes=(0, 1))
        busiest.append(loads.max(axis=1))
    paths = []
    for limit in limits:
        allowed = [np.arange(len(states))] * len(steps)
        if limit is not None:
            allowed = [np.flatnonzero(loads <= most) for loads, most in zip(busiest, limit, strict=True)]
            broken = next((layer for layer, kept in enumerate(allowed) if not len(kept)), None)
            if broken is not None:
                raise ValueError(
                    f"limits: no balanced assignment keeps every rank of layer {broken} within {limit[broken]:g} "
                    "choices; give a higher limit"
                )
        path, least = _cheapest(steps, on_rank, allowed)
        paths.append((states[path], least))
    return paths


def _cheapest(
    steps: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
    on_rank: NDArray[np.float64],
    allowed: list[NDArray[np.int64]],
) -> tuple[list[int], float]:
    """The cheapest state of each layer among those allowed there, and the cost of all."""
    least = [steps[0][1][allowed[0]]]
    for layer in range(1, len(steps)):
        arriving, own = (prices[allowed[layer]] for prices in steps[layer])
        before = on_rank[allowed[layer - 1]]
        for begin in range(0, len(own), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            own[block] += (arriving[block] @ before.T + least[-1]).min(axis=1)
        least.append(own)
    path = [int(allowed[-1][least[-1].argmin()])]
    for layer in range(len(steps) - 1, 0, -1):
        arriving, before = steps[layer][0][path[-1]], allowed[layer - 1]
        path.append(int(before[(least[layer - 1] + on_rank[before] @ arriving).argmin()]))
    return path[::-1], float(least[-1].min())


def _prices(
    visits: NDArray[np.int64],
    tokens: NDArray[np.int64],
    layer: int,
    states: NDArray[np.int64],
    cost: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cost of the visits of a layer under every state of it.

    The visits are previous layer and anchor there, anchor, other choices, [N, 2 + K]. Returns what arrives for each
    rank of each anchor of the layer before, [S, E * G], and what does not depend on it, the copies back and the copies
    of tokens that start here, [S].
    """
    num_states, num_experts = states.shape
    from_layer, origin, experts = visits[:, 0], visits[:, 1], visits[:, 2:]
    near = from_layer == layer - 1 if layer else np.zeros(len(visits), bool)
    comes_from = (origin == np.arange(num_experts)[:, None]) * near * tokens.astype(np.float64)
    starts = from_layer == DROPPED
    anchors = states[:, experts[:, 0]]
    arriving = np.zeros((num_states, num_experts, len(cost)))
    own = np.zeros(num_states)
    for rank, (back, out) in enumerate(zip(cost, cost.T, strict=True)):
        visited = np.zeros((num_states, len(visits)))
        for choices in experts.T:
            np.maximum(visited, (states[:, choices] == rank) & (choices != DROPPED), out=visited)
        arriving += (visited @ comes_from.T)[:, :, None] * out
        own += (visited * (back[anchors] + starts * out[anchors])) @ tokens
    return arriving.reshape(num_states, -1), own
