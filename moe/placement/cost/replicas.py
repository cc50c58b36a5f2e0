"""Experts on several ranks: the traffic of tokens that each take one of the replicas.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, X exchanges of a layer.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.objective import Moves, require_sets, require_sources
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.topology import Topology
from moe.replica import QUOTAS, Slots, served_choices
from moe.routing_trace import DROPPED


def shares(holders: NDArray[np.bool_], cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the tokens at each rank that each replica of their expert serves, [G, E, G]; 1 over the last axis."""
    distance = np.where(holders, cost[:, None, :], np.inf)
    nearest = distance == distance.min(axis=2, keepdims=True)
    return nearest / nearest.sum(axis=2, keepdims=True)


def replicated_moves(
    statistics: RoutingStatistics,
    topology: Topology,
    holders: NDArray[np.bool_],
    dispatch: Dispatch,
    rule: str = "even",
) -> tuple[Moves, NDArray[np.float64]]:
    """Count the moves, [X, L, G, G], and the choices that each rank computes, [L, G], of a placement with replicas.

    In the home-return modes the counts are dealt to the replicas as a run deals them, all tokens of the trace as one
    micro batch. In coherent dispatch a token takes the nearest replica, and replicas at equal distance count by their
    shares: it assumes that the next expert of a token depends on its last expert alone, and not on the replica that
    served it, and that further choices take the replica nearest to where the token comes from.

    Args:
        statistics: Counts of the routing trace; ValueError if they lack what the dispatch mode needs.
        holders: Ranks that hold each expert, as many experts on every rank, [L, E, G].
        dispatch: Dispatch mode that moves the tokens.
        rule: How a home-return run splits choices over replicas: even or least_loaded.
    """
    if dispatch == "coherent":
        moves, at = _coherent(statistics, topology.cost, holders)
        further = (statistics.loads - statistics.anchors)[:, :, None] * _spread(holders, topology.cost)
        moves = moves[None]
        if statistics.visits is not None:
            there, back = _coherent_copies(statistics, topology.cost, holders, at)
            moves = np.stack([moves[0] + there, back])
        return moves, (statistics.anchors[:, :, None] * at + further).sum(axis=1)
    sources = require_sources(statistics)
    by_choice = np.stack(
        [QUOTAS[rule](*layer, number) for number, layer in enumerate(zip(sources, holders, strict=True))]
    )
    by_choice = by_choice.sum(axis=2).astype(np.float64)
    there = [by_choice] if dispatch == "home" else _dealt(statistics, topology, holders, rule, dispatch)
    back = [exchange.swapaxes(1, 2) for exchange in reversed(there)]
    return np.stack([*there, *back]), by_choice.sum(axis=1)


def arrivals(
    statistics: RoutingStatistics, layer: int, located: NDArray[np.float64], num_ranks: int
) -> NDArray[np.float64]:
    """Tokens that arrive at each expert of a layer from each rank, [G, E].

    `located` is the share of an expert's tokens on each rank for the layers before, [at least layer, E, G].
    """
    tokens = np.zeros((num_ranks, statistics.num_experts))
    if layer:
        tokens += located[layer - 1].T @ statistics.transitions[layer - 1]
    from_layer, _, from_expert, to_expert, counts = statistics.jumps[statistics.jumps[:, 1] == layer].T
    np.add.at(tokens.T, to_expert, counts[:, None] * located[from_layer, from_expert])
    return tokens


def settle(
    statistics: RoutingStatistics, layer: int, arriving: NDArray[np.float64], served: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of the tokens of each expert that each of its replicas holds, [E, G]; tokens start from all ranks alike.

    `arriving` [G, E] come from each rank, and of those at a rank each replica serves the share `served` [G, E, G].
    """
    anchors = statistics.anchors[layer].astype(np.float64)
    starting = np.maximum(anchors - arriving.sum(axis=0), 0) / len(served)
    located = np.einsum("re,reg->eg", arriving + np.where(anchors > 0, starting, 1), served)
    return located / located.sum(axis=1, keepdims=True)


def _coherent(
    statistics: RoutingStatistics, cost: NDArray[np.float64], holders: NDArray[np.bool_]
) -> tuple[Moves, NDArray[np.float64]]:
    num_layers, _, num_ranks = holders.shape
    moves = np.zeros((num_layers, num_ranks, num_ranks))
    located = np.zeros(holders.shape)
    for layer in range(num_layers):
        served = shares(holders[layer], cost)
        arriving = arrivals(statistics, layer, located, num_ranks)
        moves[layer] = np.einsum("re,reg->rg", arriving, served)
        located[layer] = settle(statistics, layer, arriving, served)
    return moves, located


def _coherent_copies(
    statistics: RoutingStatistics, cost: NDArray[np.float64], holders: NDArray[np.bool_], located: NDArray[np.float64]
) -> tuple[Moves, Moves]:
    """Expected copies of further choices and their ways back to the anchor, both [L, G, G]."""
    assert statistics.visits is not None
    num_layers, _, num_ranks = holders.shape
    there, back = np.zeros((2, num_layers, num_ranks, num_ranks))
    for layer in range(num_layers):
        served = shares(holders[layer], cost)
        here = statistics.visits.rows[:, 0] == layer
        rows, tokens = statistics.visits.rows[here], statistics.visits.tokens[here]
        starts = rows[:, 1] == DROPPED
        begin = located[rows[:, 1], rows[:, 2]]
        begin[starts] = served.mean(axis=0)[rows[starts, 3]]
        row, rank = np.nonzero(begin)
        elsewhere = 1 - served[rank[:, None], rows[row, 4:]]
        elsewhere[rows[row, 4:] == DROPPED] = 1
        visited = 1 - elsewhere.prod(axis=1)
        end = np.where(starts[row, None], np.eye(num_ranks)[rank], served[rank, rows[row, 3]])
        weights = (tokens[row] * begin[row, rank])[:, None] * visited
        np.add.at(there[layer], rank, weights * (1 - end))
        back[layer] = weights.T @ end
        np.fill_diagonal(back[layer], 0.0)
    return there, back


def _spread(holders: NDArray[np.bool_], cost: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([shares(layer, cost).mean(axis=0) for layer in holders])


def _dealt(
    statistics: RoutingStatistics, topology: Topology, holders: NDArray[np.bool_], rule: str, dispatch: Dispatch
) -> list[Moves]:
    """Copies on their way to the ranks that serve them, by exchange, [L, G, G] each."""
    sets = require_sets(statistics)
    ranks, nodes, width = topology.num_ranks, topology.num_nodes, topology.ranks_per_node
    inside, between = np.zeros((2, len(holders), ranks, ranks))
    bounds = np.searchsorted(sets.rows[:, 0], np.arange(len(holders) + 1))
    for layer, held in enumerate(holders):
        part = slice(bounds[layer], bounds[layer + 1])
        homes, experts, tokens = sets.rows[part, 1], sets.rows[part, 2:], sets.tokens[part]
        slots = Slots(np.stack([np.flatnonzero(on_rank) for on_rank in held.T]), len(held))
        chosen = [(home, np.repeat(experts[homes == home], tokens[homes == home], axis=0)) for home in range(ranks)]
        for home, served in served_choices(chosen, slots, rule, layer):
            visited = served.reshape(len(served), ranks, slots.slots_per_rank).any(axis=2)
            if dispatch == "copies":
                inside[layer, home] = visited.sum(axis=0)
                continue
            relays = np.arange(ranks) // width * width + home % width
            np.add.at(inside[layer], (relays, np.arange(ranks)), visited.sum(axis=0))
            reached = visited.reshape(len(served), nodes, width).any(axis=2).sum(axis=0)
            between[layer, home, relays[::width]] += reached
    return [inside] if dispatch == "copies" else [between, inside]
