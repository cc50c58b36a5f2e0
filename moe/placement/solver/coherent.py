"""Searches for coherent dispatch: by sweeps, by pair moves with kicks, and in stages.

A sweep is each layer's exact best response to its neighbours, until no layer gains. The stages bring experts to nodes
first, then to the ranks inside each node, then all ranks together.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, N nodes, F experts of a node.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.coherent import best_bound, quick_bound
from moe.placement.counts import RoutingStatistics
from moe.placement.ranks import contiguous_ranks
from moe.placement.solver.descent import Annealing, Descent
from moe.placement.solver.load_limits import start_within
from moe.placement.solver.protocol import Assignment
from moe.placement.topology import Topology

_RANDOM_CHAINS = 6
KICKS = 1_000
WORK = 3 * 10**9  # a second or two for 64 experts; small problems run out of kicks first
_STAGES = 3


def best_sweep(
    descent: Descent, generator: np.random.Generator, start: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Sweep from one assignment and from chains that begin with its first layer, its ranks and experts drawn anew.

    The start, [L, E], keeps the limits of the descent; by default it is the contiguous one. The result is the cheapest
    assignment, never of higher cost than the start.
    """
    if start is None:
        start = contiguous_ranks(descent.num_layers, descent.num_experts, descent.num_ranks)
    starts = [start, descent.chain(start)]
    for _ in range(_RANDOM_CHAINS):
        drawn = start.copy()
        drawn[0] = generator.permutation(start[0])
        starts.append(descent.chain(descent.within_limits(drawn, start)))
    return min((descent.sweep(ranks) for ranks in starts), key=descent.cost)


def solve_sweep(
    statistics: RoutingStatistics, topology: Topology, *, seed: int, limits: NDArray[np.float64] | None = None
) -> Assignment:
    """Minimise the coherent cost by coordinate descent; a `PlacementSolver`.

    The chain keeps one layer and assigns each further layer given the one before it, which is optimal for one expert
    a rank and one level of cost. Sweeps then assign each layer again given all others; a step that does not gain is
    not taken, so the cost never rises. With several choices a token, exchanges of experts then lower the cost of moves
    and copies together.
    """
    generator = np.random.default_rng(seed)
    descent, start = descent_within(statistics, topology, limits)
    ranks = best_sweep(descent, generator, start)
    if statistics.visits is not None:
        annealing = Annealing(statistics, topology, limits)
        ranks = min(annealing.descend(start), annealing.descend(ranks), key=annealing.cost)
    return Assignment(ranks, quick_bound(statistics, topology))


def descent_within(
    statistics: RoutingStatistics, topology: Topology, limits: NDArray[np.float64] | None
) -> tuple[Descent, NDArray[np.int64]]:
    """Descent of first choices, and an assignment within the limits, [L, E]: contiguous where that keeps them."""
    start = start_within(statistics.loads, topology.num_ranks, limits)
    return Descent(statistics.transitions, statistics.jumps, topology.cost, statistics.loads, limits), start


def solve_pair(
    statistics: RoutingStatistics, topology: Topology, *, seed: int, limits: NDArray[np.float64] | None = None
) -> Assignment:
    """Minimise the coherent cost by sweeps, re-splits of two ranks, exchanges and kicks; a `PlacementSolver`.

    A re-split divides the experts of two ranks anew in all layers at once, by the moves of first choices. Annealed
    exchanges price moves and copies together, where a token has several choices, and keep to limits. The search ends
    after a number of steps, not of seconds, so that the answer does not depend on the machine.
    """
    generator = np.random.default_rng(seed)
    descent, start = descent_within(statistics, topology, limits)
    ranks = best_sweep(descent, generator, start)
    if statistics.visits is not None or limits is not None:
        ranks = Annealing(statistics, topology, limits).search(ranks, work=WORK // 3, generator=generator)
    if statistics.visits is None:
        ranks = descent.search(ranks, kicks=KICKS, work=WORK, generator=generator)
    return Assignment(ranks, best_bound(statistics, topology, limits))


def solve_staged(
    statistics: RoutingStatistics, topology: Topology, *, seed: int, limits: NDArray[np.float64] | None = None
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
