"""Home-return dispatch with one copy a rank or a node: groups experts that tokens choose together.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.copies import copies_bound
from moe.placement.bound.hierarchical import hierarchical_bound
from moe.placement.contiguous import contiguous_ranks
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.slots import cheapest_ranks
from moe.placement.solver.feasible import start_within
from moe.placement.solver.layer_search import LayerProblem, layer_problems
from moe.placement.solver.packing import pack_layer
from moe.placement.solver.protocol import Assignment
from moe.placement.topology import Topology

_NODE_STEPS = 128


def solve_swaps(
    statistics: RoutingStatistics, topology: Topology, *, seed: int, limits: NDArray[np.float64] | None = None
) -> Assignment:
    """Minimise the copies cost; a `PlacementSolver`.

    Each layer begins from the contiguous order, from the balanced loads and from the exact home-return assignment; the
    best of them is improved by exchanges of two experts, chosen by tabu search.

    Source: co-activation as the objective of expert placement, Occult (arXiv 2505.13345); tabu search, Glover 1989.
    """
    ranks = search_layers(statistics, topology, "copies", seed=seed, limits=limits)
    return Assignment(ranks, copies_bound(statistics, topology, limits))


def solve_node_swaps(
    statistics: RoutingStatistics, topology: Topology, *, seed: int, limits: NDArray[np.float64] | None = None
) -> Assignment:
    """Minimise the hierarchical cost; a `PlacementSolver`.

    As `solve_swaps`, and each layer begins also from experts that were divided among the nodes first.
    """
    ranks = search_layers(statistics, topology, "hierarchical", seed=seed, limits=limits)
    return Assignment(ranks, hierarchical_bound(statistics, topology, limits))


def search_layers(
    statistics: RoutingStatistics,
    topology: Topology,
    dispatch: Dispatch,
    *,
    seed: int,
    limits: NDArray[np.float64] | None = None,
    start: NDArray[np.int64] | None = None,
    steps: int | None = None,
) -> NDArray[np.int64]:
    """Search every layer of a dispatch mode whose layers are independent.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks and what a move between them costs.
        dispatch: home, copies or hierarchical.
        seed: Seed of the draws.
        limits: Most choices of one rank by layer, [L], or None.
        start: An assignment to begin from in place of those that the search makes itself, [L, E].
        steps: Exchanges of a layer; by default enough for its size.

    Returns:
        Rank of each expert, [L, E]; it keeps the limits, and no layer costs more than with contiguous experts if those
        keep them too.
    """
    contiguous = contiguous_ranks(1, statistics.num_experts, topology.num_ranks)[0]
    kept = start_within(statistics.loads, topology.num_ranks, limits)
    layers = []
    for layer, problem in enumerate(layer_problems(statistics, topology, dispatch, limits)):
        if start is not None:
            starts = [start[layer]] if problem.keeps_limit(start[layer]) else [start[layer], kept[layer]]
        else:
            starts = [kept[layer], contiguous, problem.packed()]
            assert statistics.source_counts is not None
            prices = statistics.source_counts[layer].T @ (topology.cost + topology.cost.T)
            starts.append(cheapest_ranks(prices))
            if len(problem.places) > 1:
                starts.append(_nodes_first(problem, topology, contiguous, seed))
        layers.append(problem.search(starts, seed * statistics.num_layers + layer, steps))
    return np.stack(layers)


def _nodes_first(
    problem: LayerProblem, topology: Topology, contiguous: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """An assignment that divides the experts among the nodes by their copies, and inside each node by load."""
    nodes, width = topology.num_nodes, topology.ranks_per_node
    flat = replace(
        problem,
        places=np.arange(nodes)[None],
        prices=np.ascontiguousarray(problem.prices[1:, :, :nodes]),
        base=np.zeros((nodes, len(contiguous))),
        limit=problem.limit * width,
    )
    node = flat.search([contiguous // width, flat.packed()], seed, _NODE_STEPS)
    ranks = np.empty_like(contiguous)
    for place in range(nodes):
        experts = np.flatnonzero(node == place)
        loads = np.rint(problem.loads[experts]).astype(np.int64)
        ranks[experts] = place * width + pack_layer(loads, width, len(experts) // width).argmax(axis=1)
    return ranks
