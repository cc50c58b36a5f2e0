"""All layers packed by load, and the order of their groups chosen by what moves: the solver `packing`.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

from dataclasses import replace
from math import factorial

import numpy as np
from numpy.typing import NDArray

from moe.placement.contiguous import contiguous_ranks
from moe.placement.cost.objective import require_sources
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.slots import cheapest_ranks
from moe.placement.solver.chains import best_sweep
from moe.placement.solver.descent import Descent
from moe.placement.solver.packing import busiest, pack_layer
from moe.placement.solver.viterbi import MOST_STATES, cheapest_path
from moe.placement.topology import Topology


def pack(
    statistics: RoutingStatistics, topology: Topology, dispatch: Dispatch, slots_per_rank: int, *, seed: int
) -> NDArray[np.bool_]:
    """Balance the loads of the ranks, layer by layer, and then permute whole ranks to save moves.

    Spare slots go to the experts with the largest load per copy (as in EPLB). Copies go to ranks in order of their
    load, each to the least loaded rank that still has a slot and no copy of the expert; exchanges between the busiest
    rank and the others follow. A layer stays contiguous if that is as balanced. The assignment of whole groups to ranks
    does not change the balance: it is chosen by the dispatch mode's cost.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks and what a move between them costs.
        dispatch: Dispatch mode whose moves the order of ranks saves.
        slots_per_rank: Slots of one rank and layer, at least E / G and at most E.
        seed: Seed of the search for that order.

    Returns:
        Ranks that hold each expert, bool [L, E, G].
    """
    contiguous = contiguous_ranks(1, statistics.num_experts, topology.num_ranks)[0]
    layers = []
    for loads in statistics.loads:
        holders = pack_layer(loads, topology.num_ranks, slots_per_rank)
        if slots_per_rank * topology.num_ranks == statistics.num_experts:
            plain = contiguous[:, None] == np.arange(topology.num_ranks)
            holders = plain if busiest(loads, plain) <= busiest(loads, holders) else holders
        layers.append(holders)
    return _order_ranks(np.stack(layers), statistics, topology, dispatch, seed)


def _order_ranks(
    holders: NDArray[np.bool_], statistics: RoutingStatistics, topology: Topology, dispatch: Dispatch, seed: int
) -> NDArray[np.bool_]:
    """Assign each group of experts to the rank that saves most moves, treating a group as one expert.

    Coherent dispatch over few ranks has an exact answer; over many it is searched.
    """
    shares = holders / holders.sum(axis=2, keepdims=True)
    num_layers, _, num_ranks = holders.shape
    if dispatch == "coherent":
        jumps = statistics.jumps
        pairs = shares[jumps[:, 0], jumps[:, 2]][:, :, None] * shares[jumps[:, 1], jumps[:, 3]][:, None, :]
        tokens = pairs * jumps[:, 4, None, None]
        jump, one, other = np.nonzero(tokens)
        ends = jumps[jump, 0], jumps[jump, 1], one, other, tokens[jump, one, other]
        transitions = np.stack(
            [shares[gap].T @ statistics.transitions[gap] @ shares[gap + 1] for gap in range(num_layers - 1)]
            or [np.zeros((0, num_ranks, num_ranks))]
        ).reshape(-1, num_ranks, num_ranks)
        grouped = np.rint(transitions).astype(np.int64), np.rint(np.stack(ends, axis=1)).astype(np.int64)
        if not len(jumps) and factorial(num_ranks) <= MOST_STATES:
            loads = np.ones((num_layers, num_ranks), np.int64)
            groups = replace(statistics, transitions=grouped[0], loads=loads, visits=None)
            ranks = cheapest_path(groups, topology.cost)[0]
        else:
            ranks = best_sweep(Descent(*grouped, topology.cost), np.random.default_rng(seed))
    else:
        there_and_back = topology.cost + topology.cost.T
        ranks = np.stack(
            [
                cheapest_ranks((tokens @ share).T @ there_and_back)
                for tokens, share in zip(require_sources(statistics), shares, strict=True)
            ]
        )
    return np.stack([layer[:, np.argsort(order)] for layer, order in zip(holders, ranks, strict=True)])
