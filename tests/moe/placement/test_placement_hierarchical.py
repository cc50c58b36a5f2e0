"""One copy of a token for each node that holds any of its experts, passed on inside the node."""

import numpy as np
import pytest

from moe.placement.cost.evaluation import evaluate
from moe.placement.cost.objective import hierarchical_cost, hierarchical_moves
from moe.placement.counts import RoutingStatistics
from moe.placement.topology import Topology
from moe.routing_trace import RoutingTrace
from tests.each import each
from tests.moe.exhaustive import random_ranks, uneven_topology
from tests.moe.traces import dropping_trace


def sent_between(routing: RoutingTrace, expert_ranks: np.ndarray, topology: Topology) -> np.ndarray:
    """Messages of each exchange from rank to rank, [4, L, G, G], by a walk over the tokens."""
    ranks, width = topology.num_ranks, topology.ranks_per_node
    sent = np.zeros((4, routing.header.num_layers, ranks, ranks))
    for source, layers in zip(routing.source_rank % ranks, routing.expert_ids.tolist(), strict=True):
        for layer, choices in enumerate(layers):
            holders = {int(expert_ranks[layer, expert]) for expert in choices if expert >= 0}
            for node in {rank // width for rank in holders}:
                relay = next(rank for rank in range(node * width, ranks) if (rank - source) % width == 0)
                sent[0, layer, source, relay] += 1
                sent[3, layer, relay, source] += 1
                for rank in holders:
                    if rank // width == node:
                        sent[1, layer, relay, rank] += 1
                        sent[2, layer, rank, relay] += 1
    return sent


@each("drop", [0.0, 0.3, 0.9])
@each("top_k", [1, 2, 4])
@each("topology", [uneven_topology(2, 2, 0), uneven_topology(2, 4, 1), uneven_topology(4, 2, 2)])
def test_counts_name_the_links_that_a_walk_over_the_tokens_names(topology: Topology, top_k: int, drop: float) -> None:
    ranks = topology.num_ranks
    routing = dropping_trace(8, 3, top_k, 200, seed=5, world_size=2 * ranks, drop=drop)
    statistics = RoutingStatistics.collect(routing, ranks)
    placed = random_ranks(3, 8, ranks, 1)
    sent = sent_between(routing, placed, topology)
    np.testing.assert_array_equal(hierarchical_moves(statistics, placed, ranks, topology.num_nodes), sent)
    cost = hierarchical_cost(statistics, placed, topology.cost, topology.num_nodes).sum()
    assert cost == (sent * topology.cost).sum()
    traffic = evaluate(statistics, topology, placed, "hierarchical")
    assert traffic.cost == pytest.approx(cost / 200)
    assert traffic.moves_by_link[:, 2].sum() == pytest.approx((sent * topology.off_node).sum() / 200)
