"""Lower bounds on the copies cost, valid for any cost matrix, and on the hierarchical cost: what crosses between nodes,
and all of it where there is one node.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, S experts of one rank, M nodes,
K choices, N distinct choice sets.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.distinct import affordable_rounds, fewest_parts
from moe.placement.cost.objective import require_sets
from moe.placement.counts import RoutingStatistics, Tally
from moe.placement.placement import slots_per_rank
from moe.placement.ranks import cheapest_ranks
from moe.placement.topology import Topology
from moe.routing_trace import DROPPED

_Tokens = NDArray[np.int64] | NDArray[np.float64]


def copies_bound(
    statistics: RoutingStatistics,
    topology: Topology,
    limits: NDArray[np.float64] | None = None,
    rounds: int | None = None,
) -> float:
    """Bound the cost of all copies from below, each layer by the largest of three bounds.

    First: a copy carries at most min(S, choices of its token) choices, so that giving every choice its part of a copy
    and solving the home-return assignment undercuts any placement. Exact for one expert a rank or one choice.
    Second: a set of m experts on ranks that share b pairs of them needs at least m - b copies, one less if one of
    them is at home. The pairs on one rank weigh at most half of each expert's S - 1 heaviest co-activations, the
    tokens at home at most the best assignment of experts to ranks. The same holds for nodes with all their slots.
    Third: `fewest_parts` relaxes the division of all experts, but not that of the choices of a token. It is the best
    where ranks hold many experts. What it misses most is how often a token finds a choice at home.

    `limits` [L] raise the third bound, which takes so many `rounds`; by default as many as take some seconds.
    """
    sets = require_sets(statistics)
    slots = slots_per_rank(statistics.num_experts, topology.num_ranks)
    num_choices = sets.rows.shape[1] - 2
    if rounds is None:
        rounds = affordable_rounds(len(sets.rows), num_choices, statistics.num_layers, statistics.num_experts)
    if num_choices < 2 or slots < 2:
        rounds = 0
    bound = 0.0
    for layer in range(statistics.num_layers):
        rows = sets.rows[:, 0] == layer
        chosen = sets.rows[rows, 2:], sets.rows[rows, 1], sets.tokens[rows]
        here = _layer_bound(*chosen, statistics.coactivation[layer], topology, slots)
        if rounds:
            limit = np.inf if limits is None else max(float(limits[layer]), 1e-300)
            here = max(here, _parts_away(*chosen, statistics.loads[layer] / limit, topology, rounds))
        bound += here
    return bound


def _parts_away(
    experts: NDArray[np.int64],
    homes: NDArray[np.int64],
    tokens: NDArray[np.int64],
    shares: NDArray[np.float64],
    topology: Topology,
    rounds: int,
) -> float:
    near, step = topology.levels()
    bound = 0.0
    if near > 0:
        bound += near * fewest_parts(experts, tokens, len(shares), topology.num_ranks, rounds, homes, shares)
    if step > 0:
        nodes, of_node = homes // topology.ranks_per_node, shares / topology.ranks_per_node
        bound += step * fewest_parts(experts, tokens, len(shares), topology.num_nodes, rounds, nodes, of_node)
    return bound


def _layer_bound(
    experts: NDArray[np.int64],
    homes: NDArray[np.int64],
    tokens: NDArray[np.int64],
    coactivation: NDArray[np.int64],
    topology: Topology,
    slots: int,
) -> float:
    num_experts = len(coactivation)
    cost = topology.cost + topology.cost.T
    sizes = (experts != DROPPED).sum(axis=1)
    parts = choices_by_place(experts, homes, tokens / np.clip(sizes, 1, slots), topology.num_ranks, num_experts)
    prices = parts.T @ cost
    shared = float(prices[np.arange(num_experts), cheapest_ranks(prices)].sum())
    near, step = topology.levels()
    levels = near * _copies_away(experts, homes, tokens, coactivation, topology.num_ranks, slots)
    if step:
        nodes, node_slots = homes // topology.ranks_per_node, slots * topology.ranks_per_node
        levels += step * _copies_away(experts, nodes, tokens, coactivation, topology.num_nodes, node_slots)
    return max(shared, levels)


def _copies_away(
    experts: NDArray[np.int64],
    homes: NDArray[np.int64],
    tokens: _Tokens,
    pairs: NDArray[np.int64],
    num_places: int,
    slots: int,
) -> float:
    """Lower bound on the copies that leave the place of their token."""
    num_experts = len(pairs)
    choices = float((tokens * (experts != DROPPED).sum(axis=1)).sum())
    heaviest = np.sort(pairs, axis=1)[:, num_experts - min(slots - 1, num_experts) :].sum() / 2 if slots > 1 else 0.0
    at_home = choices_by_place(experts, homes, tokens, num_places, num_experts)
    least_away = at_home.sum(axis=0)[:, None] - at_home.T
    ranks = cheapest_ranks(least_away)
    most_at_home = float(at_home[ranks, np.arange(num_experts)].sum())
    return max(choices - heaviest - min(most_at_home, float(tokens.sum())), 0.0)


def choices_by_place(
    experts: NDArray[np.int64], homes: NDArray[np.int64], tokens: _Tokens, num_places: int, num_experts: int
) -> NDArray[np.float64]:
    """Tokens that chose each expert, by the rank or node `homes` [N] of the token, [places, E]."""
    row, choice = np.nonzero(experts != DROPPED)
    index = homes[row] * num_experts + experts[row, choice]
    counts = np.bincount(index, weights=tokens[row], minlength=num_places * num_experts)
    return counts.astype(np.float64).reshape(num_places, num_experts)


def hierarchical_bound(
    statistics: RoutingStatistics, topology: Topology, limits: NDArray[np.float64] | None = None
) -> float:
    """Bound the cost of hierarchical dispatch from below.

    Between nodes it sends what de-duplicated dispatch would send if every node were one rank, over the cheapest of the
    links that join ranks of equal place. What is passed on inside nodes is left out, so that the bound is weak where
    that costs as much. On one node hierarchical dispatch is de-duplicated dispatch.
    """
    if topology.num_nodes == 1:
        return copies_bound(statistics, topology, limits)
    width = topology.ranks_per_node
    by_place_MKMK = topology.cost.reshape(topology.num_nodes, width, topology.num_nodes, width)
    rails_MM = np.diagonal(by_place_MKMK, axis1=1, axis2=3).min(axis=2)
    sets = require_sets(statistics)
    rows = sets.rows.copy()
    rows[:, 1] //= width
    assert statistics.source_counts is not None
    num_layers, _, num_experts = statistics.source_counts.shape
    by_node = replace(
        statistics,
        choice_sets=Tally.count(rows, sets.tokens),
        source_counts=statistics.source_counts.reshape(num_layers, topology.num_nodes, width, num_experts).sum(axis=2),
    )
    nodes = Topology(topology.num_nodes, 1, rails_MM, topology.unit)
    return copies_bound(by_node, nodes, None if limits is None else width * limits)
