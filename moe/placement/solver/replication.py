"""Spare slots filled with copies of experts in coherent dispatch: each copy where it saves most moves per byte.

All experts of a layer weigh the same, so the copy that saves most per byte is the one that saves most.
Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.objective import require_sources
from moe.placement.cost.replicas import arrivals, settle, shares
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.topology import Topology


def replicate(
    statistics: RoutingStatistics, topology: Topology, expert_ranks: NDArray[np.int64], slots_per_rank: int
) -> NDArray[np.bool_]:
    """Fill the spare slots of a placement greedily with the copies that save most.

    A copy also changes the rank from which tokens leave: both moves are counted, with the layers before as filled
    already and the layers after as they are. Slots are filled even if nothing more can be saved.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks and what a move between them costs.
        expert_ranks: Rank of each expert, [L, E].
        slots_per_rank: Slots of one rank and layer, E / G to E.

    Returns:
        Ranks that hold each expert, bool [L, E, G].
    """
    holders = expert_ranks[:, :, None] == np.arange(topology.num_ranks)
    located = holders.astype(np.float64)
    for layer in range(len(holders)):
        arriving = arrivals(statistics, layer, located, topology.num_ranks)
        starting = np.maximum(statistics.anchors[layer] - arriving.sum(axis=0), 0) / topology.num_ranks
        onward = _onward(statistics, topology.cost, layer, holders)
        _fill(holders[layer], arriving + starting, arriving, topology.cost, onward, slots_per_rank)
        located[layer] = settle(statistics, layer, arriving, shares(holders[layer], topology.cost))
    return holders


def replicated_home_bound(statistics: RoutingStatistics, topology: Topology, slots_per_rank: int) -> float:
    """Bound the home-return cost of any placement with replicas: a rank or node keeps at most the experts it has
    slots for, and every other choice leaves it.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks and what a move between them costs.
        slots_per_rank: Slots of one rank and layer.

    Returns:
        The bound over all tokens.
    """
    sources = require_sources(statistics)
    near, step = topology.levels()
    nodes = sources.reshape(len(sources), topology.num_nodes, topology.ranks_per_node, -1).sum(axis=2)
    leaving = [
        np.sort(tokens, axis=2)[:, :, : max(statistics.num_experts - kept, 0)].sum()
        for tokens, kept in ((sources, slots_per_rank), (nodes, slots_per_rank * topology.ranks_per_node))
    ]
    return float(near * leaving[0] + step * leaving[1])


def _onward(
    statistics: RoutingStatistics, cost: NDArray[np.float64], layer: int, holders: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Mean cost of the next move of a token, by its expert and the rank that serves it, [E, G]."""
    total = np.zeros((statistics.num_experts, len(cost)))
    leaving = np.zeros(statistics.num_experts)
    if layer + 1 < len(holders):
        nearest = np.where(holders[layer + 1], cost[:, None, :], np.inf).min(axis=2)
        total += statistics.transitions[layer] @ nearest.T
        leaving += statistics.transitions[layer].sum(axis=1)
    for _, to_layer, from_expert, to_expert, tokens in statistics.jumps[statistics.jumps[:, 0] == layer]:
        total[from_expert] += tokens * np.where(holders[to_layer, to_expert], cost, np.inf).min(axis=1)
        leaving[from_expert] += tokens
    anchors = np.maximum(statistics.anchors[layer], np.maximum(leaving, 1))
    return total / anchors[:, None]


def _fill(
    holders: NDArray[np.bool_],
    tokens: NDArray[np.float64],
    priced: NDArray[np.float64],
    cost: NDArray[np.float64],
    onward: NDArray[np.float64],
    slots_per_rank: int,
) -> None:
    """Add copies to one layer until its slots are full.

    Args:
        holders: Ranks that hold each expert, [E, G]; changed in place.
        tokens: Tokens that come from each rank to each expert, [G, E].
        priced: Those of them whose move counts, [G, E].
        cost: Cost of their moves between ranks, [G, G].
        onward: Cost of the next move, by expert and rank, [E, G].
        slots_per_rank: Slots of one rank.
    """

    def saving(expert: int) -> NDArray[np.float64]:
        variants = np.concatenate([holders[expert][None], holders[expert] | np.eye(len(cost), dtype=bool)])
        served = shares(variants, cost)
        price = np.einsum("r,rvg,rg->v", priced[:, expert], served, cost)
        price += np.einsum("r,rvg,g->v", tokens[:, expert], served, onward[expert])
        return price[0] - price[1:]

    savings = np.stack([saving(expert) for expert in range(len(holders))])
    loads = tokens.sum(axis=0)
    while True:
        room = holders.sum(axis=0) < slots_per_rank
        if not room.any():
            return
        possible = ~holders & room
        if not possible.any():
            raise AssertionError("a rank has more slots than there are experts")
        best = np.where(possible, savings, -np.inf)
        equal = best >= best.max() - 1e-12 * max(abs(float(best.max())), 1.0)
        busy = np.where(equal, (loads / holders.sum(axis=1))[:, None], -np.inf)
        expert, rank = np.unravel_index(busy.argmax(), busy.shape)
        holders[expert, rank] = True
        savings[expert] = saving(int(expert))
