"""Experts on several ranks: the choice of a replica for each token, and the resulting traffic.

A token takes the nearest replica by the cost matrix (with hop-like costs: on its rank, else on its node, else
anywhere); a hash of the token breaks ties, so that replicas at one distance share the tokens evenly and a repeated
run chooses alike. The rule is SGLang's, made deterministic.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, N choices, K choices of a token.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.objective import Moves, require_sets, require_sources
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.topology import Topology
from moe.routing_trace import DROPPED


def choose_replicas(
    experts: NDArray[np.integer],
    from_ranks: NDArray[np.integer],
    tokens: NDArray[np.integer],
    layer: int,
    holders: NDArray[np.bool_],
    cost: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Choose the rank that serves each choice.

    Args:
        experts: Chosen experts, [N].
        from_ranks: Rank where each token is, [N].
        tokens: Index of each token, the same for all its choices, [N].
        layer: MoE layer, 0 to L - 1.
        holders: Ranks that hold each expert of that layer, [E, G].
        cost: Cost of moving one token between ranks, [G, G].

    Returns:
        Ranks, int64 [N].
    """
    nearest = shares(holders, cost)[from_ranks, experts] > 0
    drawn = _hash(tokens.astype(np.uint64), layer, experts.astype(np.uint64)) % nearest.sum(axis=1).astype(np.uint64)
    return (nearest.cumsum(axis=1) > drawn[:, None].astype(np.int64)).argmax(axis=1)


def shares(holders: NDArray[np.bool_], cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the tokens at each rank that each replica of their expert serves.

    Args:
        holders: Ranks that hold each expert of a layer, [E, G].
        cost: Cost of moving one token between ranks, [G, G].

    Returns:
        Shares by rank of the token, expert and rank of the replica, [G, E, G]; they add up to 1 over the last axis.
    """
    distance = np.where(holders, cost[:, None, :], np.inf)
    nearest = distance == distance.min(axis=2, keepdims=True)
    return nearest / nearest.sum(axis=2, keepdims=True)


def replicated_moves(
    statistics: RoutingStatistics, topology: Topology, holders: NDArray[np.bool_], dispatch: Dispatch
) -> tuple[Moves, NDArray[np.float64]]:
    """Count the expected moves and loads of a placement with replicas.

    Replicas at equal distance count by their shares. In home-return dispatch this is exact up to the randomness of the
    hash. In coherent dispatch it assumes that the next expert of a token depends on its last expert alone, and not on
    the replica that served it, and that further choices take the replica nearest to where the token comes from. Copies
    of further choices count as in `coherent_traffic`.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks and what a move between them costs.
        holders: Ranks that hold each expert, [L, E, G].
        dispatch: Dispatch mode that moves the tokens.

    Returns:
        Moves by exchange and layer, [X, L, G, G], and the choices that each rank computes, [L, G].

    Raises:
        ValueError: The counts lack what the dispatch mode needs.
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
    served = np.stack([shares(layer, topology.cost + topology.cost.T) for layer in holders])
    by_choice = np.einsum("lre,lreg->lrg", sources, served, optimize=True)
    there = by_choice if dispatch == "home" else _copies(statistics, served)
    return np.stack([there, there.swapaxes(1, 2)]), by_choice.sum(axis=1)


def arrivals(
    statistics: RoutingStatistics, layer: int, located: NDArray[np.float64], num_ranks: int
) -> NDArray[np.float64]:
    """Tokens that arrive at each expert of a layer from each rank.

    Args:
        statistics: Counts of the routing trace.
        layer: MoE layer, 0 to L - 1.
        located: Share of an expert's tokens on each rank for the layers before, [at least layer, E, G].
        num_ranks: Ranks G of the group.

    Returns:
        Tokens by rank and expert, [G, E].
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
    """Share of the tokens of each expert that each of its replicas holds; tokens start from all ranks alike.

    Args:
        statistics: Counts of the routing trace.
        layer: MoE layer, 0 to L - 1.
        arriving: Tokens that come from each rank to each expert, [G, E].
        served: Share of the tokens at a rank that each replica serves, [G, E, G].

    Returns:
        Shares, [E, G].
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
    statistics: RoutingStatistics,
    cost: NDArray[np.float64],
    holders: NDArray[np.bool_],
    located: NDArray[np.float64],
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


def _copies(statistics: RoutingStatistics, served: NDArray[np.float64]) -> NDArray[np.float64]:
    sets = require_sets(statistics)
    there = np.zeros((len(served), served.shape[1], served.shape[3]))
    for layer, shares_of_layer in enumerate(served):
        rows = sets.rows[:, 0] == layer
        home, experts = sets.rows[rows, 1], sets.rows[rows, 2:]
        elsewhere = 1 - shares_of_layer[home[:, None], experts]
        elsewhere[experts == DROPPED] = 1
        np.add.at(there[layer], home, sets.tokens[rows, None] * (1 - elsewhere.prod(axis=1)))
    return there


def _hash(tokens: NDArray[np.uint64], layer: int, experts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 over the three numbers (Steele, Lea, Flood 2014)."""
    mixed = tokens
    for part in (np.uint64(layer), experts):
        mixed = (mixed ^ part) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed
