"""Coherent dispatch in stages: experts to nodes first, then to the ranks inside each node, then all ranks together.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, N nodes, F experts of a node.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.coherent import best_bound
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.solver.annealing import Annealing
from moe.placement.solver.chains import best_sweep
from moe.placement.solver.descent import Descent
from moe.placement.solver.pair_moves import KICKS, WORK
from moe.placement.solver.protocol import Assignment
from moe.placement.solver.sweep import descent_within
from moe.placement.topology import Topology

_STAGES = 3


def solve_staged(
    statistics: RoutingStatistics,
    topology: Topology,
    *,
    seed: int,
    limits: NDArray[np.float64] | None = None,
) -> Assignment:
    """Minimise the coherent cost level by level, then across the levels; a `PlacementSolver`.

    The first stage prices moves between nodes at their mean, the second those inside a node by its block of the cost
    matrix. The last stage begins with this result, or with that of a sweep if it is cheaper, and lowers the true cost.
    The stages move first choices alone and know no limits: a layer that breaks its limit after them is that of the
    sweep, and with several choices a token the last stage is that of `solve_pair`.
    """
    generator = np.random.default_rng(seed)
    whole, start = descent_within(statistics, topology, limits)
    ranks = best_sweep(whole, generator, start)
    if topology.num_nodes > 1 and topology.ranks_per_node > 1:
        nodes = _search(
            Descent(statistics.transitions, statistics.jumps, _between_nodes(topology)), WORK // _STAGES, generator
        )
        staged = whole.within_limits(_inside_nodes(statistics, topology, nodes, generator), ranks)
        ranks = min(whole.sweep(staged), ranks, key=whole.cost)
    if statistics.visits is None:
        ranks = whole.search(ranks, kicks=KICKS, work=WORK // _STAGES, generator=generator)
    else:
        ranks = Annealing(statistics, topology, limits).search(ranks, work=WORK // 3, generator=generator)
    return Assignment(ranks, best_bound(statistics, topology, limits))


def _search(descent: Descent, work: int, generator: np.random.Generator) -> NDArray[np.int64]:
    return descent.search(best_sweep(descent, generator), kicks=KICKS // _STAGES, work=work, generator=generator)


def _between_nodes(topology: Topology) -> NDArray[np.float64]:
    """Mean cost of a move between the ranks of two nodes, [N, N]; nothing inside a node."""
    nodes, ranks = topology.num_nodes, topology.ranks_per_node
    cost = topology.cost.reshape(nodes, ranks, nodes, ranks).mean(axis=(1, 3))
    np.fill_diagonal(cost, 0.0)
    return cost


def _inside_nodes(
    statistics: RoutingStatistics, topology: Topology, nodes: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Ranks of all experts, [L, E]: each node's experts, given by `nodes` [L, E], are placed independently."""
    num_layers, num_experts = nodes.shape
    ranks = np.empty_like(nodes)
    jumps, layers = statistics.jumps, np.arange(num_layers)[:, None]
    for node in range(topology.num_nodes):
        experts = np.nonzero(nodes == node)[1].reshape(num_layers, -1)
        place = np.full((num_layers, num_experts), -1)
        place[layers, experts] = np.arange(experts.shape[1])
        transitions = statistics.transitions[layers[:-1, :, None], experts[:-1, :, None], experts[1:, None, :]]
        leaves, arrives = place[jumps[:, 0], jumps[:, 2]], place[jumps[:, 1], jumps[:, 3]]
        theirs = np.column_stack([jumps[:, :2], leaves, arrives, jumps[:, 4]])[(leaves >= 0) & (arrives >= 0)]
        first = node * topology.ranks_per_node
        block = slice(first, first + topology.ranks_per_node)
        descent = Descent(transitions, theirs, topology.cost[block, block])
        inside = _search(descent, WORK // _STAGES // topology.num_nodes, generator)
        ranks[layers, experts] = first + inside
    return ranks
