"""Cost of a placement in each dispatch mode: moves of tokens between ranks, and their price.

With counts the cost of any number of tokens takes a few table look-ups, and is the same as summed token by token.
Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, X exchanges of a layer,
N distinct rows of a tally, K choices.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moe.placement.counts import RoutingStatistics, Tally
from moe.placement.placement import Dispatch
from moe.routing_trace import DROPPED

Moves = NDArray[np.float64]


class Traffic(Protocol):
    """Counts the moves of tokens between ranks in one dispatch mode."""

    def __call__(
        self, statistics: RoutingStatistics, expert_ranks: NDArray[np.int64], num_ranks: int, num_nodes: int = 1
    ) -> Moves:
        """Count the moves of all tokens.

        Args:
            statistics: Counts of the routing trace.
            expert_ranks: Rank of each expert, [L, E].
            num_ranks: Ranks G of the group.
            num_nodes: Nodes of the group; only hierarchical dispatch sends by node.

        Returns:
            Tokens that each exchange of a layer takes from a rank to a rank, its own included, [X, L, G, G].
        """
        ...


class Objective(Protocol):
    """Cost of a placement in one dispatch mode."""

    def __call__(
        self,
        statistics: RoutingStatistics,
        expert_ranks: NDArray[np.int64],
        cost: NDArray[np.float64],
        num_nodes: int = 1,
    ) -> NDArray[np.float64]:
        """Price the traffic of every layer.

        Args:
            statistics: Counts of the routing trace.
            expert_ranks: Rank of each expert, [L, E].
            cost: Cost of moving one token between ranks, [G, G]. A 0/1 matrix counts the moves of one kind.
            num_nodes: Nodes of the group; only hierarchical dispatch sends by node.

        Returns:
            Cost of all tokens by layer, [L].
        """
        ...


def coherent_moves(
    statistics: RoutingStatistics, expert_ranks: NDArray[np.int64], num_ranks: int, num_nodes: int = 1
) -> Moves:
    """Context-coherent dispatch: a token stays where its expert is and moves on from there; one exchange a layer.

    A move belongs to the layer where it arrives, so layer 0 has none. Only anchors move a token here; what the other
    choices of a top-k router add is `coherent_copies`, and what is sent in all is `coherent_traffic`.
    """
    del num_nodes
    moves = np.zeros((1, statistics.num_layers, num_ranks, num_ranks))
    for gap, tokens in enumerate(statistics.transitions):
        pair = expert_ranks[gap][:, None] * num_ranks + expert_ranks[gap + 1]
        counts = np.bincount(pair.ravel(), weights=tokens.ravel(), minlength=num_ranks**2)
        moves[0, gap + 1] = counts.reshape(num_ranks, num_ranks)
    from_layer, to_layer, from_expert, to_expert, tokens = statistics.jumps.T
    ends = expert_ranks[from_layer, from_expert], expert_ranks[to_layer, to_expert]
    np.add.at(moves[0], (to_layer, *ends), tokens)
    return moves


def coherent_copies(statistics: RoutingStatistics, expert_ranks: NDArray[np.int64], num_ranks: int) -> Moves:
    """Context-coherent dispatch with several choices: moves in addition to those of the anchors.

    One copy goes from the token's previous rank to each further rank that holds one of its choices, and returns to the
    rank of the new anchor. Before its first layer a token is on the rank of its first anchor.
    """
    moves = np.zeros((2, statistics.num_layers, num_ranks, num_ranks))
    if statistics.visits is None:
        if statistics.coactivation.any():
            raise ValueError("visits: the counts lack the sets of choices; count a routing trace, not a vector")
        return moves
    rows = statistics.visits.rows
    layer, from_layer, from_expert, anchor, others = *rows[:, :4].T, rows[:, 4:]
    here = expert_ranks[layer, anchor]
    start = np.where(from_layer == DROPPED, here, expert_ranks[from_layer, from_expert])
    ranks = _distinct_ranks(layer, others, expert_ranks)
    row, choice = np.nonzero((ranks != DROPPED) & (ranks != here[:, None]))
    away, tokens = ranks[row, choice], statistics.visits.tokens[row]
    moves[0] = _tabulate(layer[row], start[row], away, tokens, moves.shape[1:])
    moves[1] = _tabulate(layer[row], away, here[row], tokens, moves.shape[1:])
    return moves


def coherent_traffic(
    statistics: RoutingStatistics, expert_ranks: NDArray[np.int64], num_ranks: int, num_nodes: int = 1
) -> Moves:
    """Context-coherent dispatch, all that is sent: anchors and copies in one exchange, copies back in a second.

    Counts without visits, such as those of `RoutingStatistics.from_vector`, know the anchors only: then there is one
    exchange, of first choices.
    """
    moves = coherent_moves(statistics, expert_ranks, num_ranks, num_nodes)
    if statistics.visits is None:
        return moves
    copies = coherent_copies(statistics, expert_ranks, num_ranks)
    return np.stack([moves[0] + copies[0], copies[1]])


def home_moves(
    statistics: RoutingStatistics, expert_ranks: NDArray[np.int64], num_ranks: int, num_nodes: int = 1
) -> Moves:
    """Home-return dispatch: every kept choice goes from the token's rank to the expert and back, in every layer."""
    del num_nodes
    holds = expert_ranks[:, :, None] == np.arange(num_ranks)
    there = require_sources(statistics) @ holds.astype(np.float64)
    return np.stack([there, there.swapaxes(1, 2)])


def copies_moves(
    statistics: RoutingStatistics, expert_ranks: NDArray[np.int64], num_ranks: int, num_nodes: int = 1
) -> Moves:
    """Home-return dispatch with one copy of a token for each rank that holds any of its experts, and one back."""
    del num_nodes
    sets = require_sets(statistics)
    layer, home = sets.rows[:, 0], sets.rows[:, 1]
    ranks = _distinct_ranks(layer, sets.rows[:, 2:], expert_ranks)
    row, choice = np.nonzero(ranks != DROPPED)
    shape = (statistics.num_layers, num_ranks, num_ranks)
    there = _tabulate(layer[row], home[row], ranks[row, choice], sets.tokens[row], shape)
    return np.stack([there, there.swapaxes(1, 2)])


def hierarchical_moves(
    statistics: RoutingStatistics, expert_ranks: NDArray[np.int64], num_ranks: int, num_nodes: int = 1
) -> Moves:
    """Home-return dispatch with one copy a node: copies go on inside each node, and their results add up there.

    The relay of a token on a node is the rank with the place of the token's own rank on its node; at home it is that
    rank itself. The exchanges: from the token to its relays, from each relay to the ranks of its node that hold any of
    the experts, back to the relay, and back to the token.
    """
    sets = require_sets(statistics)
    layer, home = sets.rows[:, 0], sets.rows[:, 1]
    width = num_ranks // num_nodes
    shape = (statistics.num_layers, num_ranks, num_ranks)
    nodes = _distinct_ranks(layer, sets.rows[:, 2:], expert_ranks // width)
    row, choice = np.nonzero(nodes != DROPPED)
    relay = nodes[row, choice] * width + home[row] % width
    between = _tabulate(layer[row], home[row], relay, sets.tokens[row], shape)
    ranks = _distinct_ranks(layer, sets.rows[:, 2:], expert_ranks)
    row, choice = np.nonzero(ranks != DROPPED)
    rank = ranks[row, choice]
    relay = rank // width * width + home[row] % width
    inside = _tabulate(layer[row], relay, rank, sets.tokens[row], shape)
    return np.stack([between, inside, inside.swapaxes(1, 2), between.swapaxes(1, 2)])


def price(moves: Moves, cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """Price the moves by exchange and layer, [X, L, G, G]: cost of all tokens by layer, [L]."""
    return (moves * cost).sum(axis=(0, 2, 3))


def require_sources(statistics: RoutingStatistics) -> NDArray[np.int64]:
    """Source counts, [L, G, E]; ValueError if the trace does not say on which rank of the group a token was."""
    if statistics.source_counts is None:
        raise ValueError(
            "source_rank: the ranks that recorded the trace do not form complete expert-parallel groups; "
            "choose nodes * ranks_per_node that divides the trace's world_size, or objective coherent"
        )
    return statistics.source_counts


def require_sets(statistics: RoutingStatistics) -> Tally:
    """Choice sets by layer and rank of the group; ValueError if ranks are unknown or the counts hold no sets."""
    require_sources(statistics)
    if statistics.choice_sets is None:
        raise ValueError(
            "choice_sets: the counts lack the experts chosen together; count a routing trace, not a vector"
        )
    return statistics.choice_sets


def _distinct_ranks(
    layer: NDArray[np.int64], experts: NDArray[np.int64], expert_ranks: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Ranks that hold any of the experts of each row, each rank once; -1 fills up, [N, K]."""
    ranks = np.where(experts == DROPPED, DROPPED, expert_ranks[layer[:, None], experts])
    ranks.sort(axis=1)
    ranks[:, 1:][ranks[:, 1:] == ranks[:, :-1]] = DROPPED
    return ranks


def _tabulate(
    layer: NDArray[np.int64],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    tokens: NDArray[np.int64],
    shape: tuple[int, ...],
) -> Moves:
    index = np.ravel_multi_index((layer, start, end), shape)
    counts = np.bincount(index, weights=tokens, minlength=int(np.prod(shape)))
    return counts.astype(np.float64).reshape(shape)


TRAFFIC: dict[Dispatch, Traffic] = {
    "coherent": coherent_traffic,
    "home": home_moves,
    "copies": copies_moves,
    "hierarchical": hierarchical_moves,
}


def _priced(traffic: Traffic) -> Objective:
    def cost_by_layer(
        statistics: RoutingStatistics, expert_ranks: NDArray[np.int64], cost: NDArray[np.float64], num_nodes: int = 1
    ) -> NDArray[np.float64]:
        return price(traffic(statistics, expert_ranks, len(cost), num_nodes), cost)

    return cost_by_layer


OBJECTIVES: dict[Dispatch, Objective] = {mode: _priced(traffic) for mode, traffic in TRAFFIC.items()}
"""In coherent dispatch with one choice a token it is the cost of the anchors' moves (ExFlow's objective)."""
coherent_cost, home_cost, copies_cost, hierarchical_cost = OBJECTIVES.values()
