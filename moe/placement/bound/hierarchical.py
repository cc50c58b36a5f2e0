"""A lower bound on the hierarchical cost: what crosses between nodes, and all of it where there is one node.

Shape legend: L MoE layers, G ranks of one expert-parallel group, M its nodes, K ranks of a node.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.copies import copies_bound
from moe.placement.cost.objective import require_sets
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.counts.tally import Tally
from moe.placement.topology import Topology


def hierarchical_bound(
    statistics: RoutingStatistics, topology: Topology, limits: NDArray[np.float64] | None = None
) -> float:
    """Bound the cost of hierarchical dispatch from below.

    Between nodes it sends what de-duplicated dispatch would send if every node were one rank, over the cheapest of the
    links that join ranks of equal place. What is passed on inside nodes is left out, so that the bound is weak where
    that costs as much. On one node hierarchical dispatch is de-duplicated dispatch.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks and what a move between them costs.
        limits: Most choices that a rank may compute, [L]; None for no limit.

    Returns:
        The bound over all tokens.

    Raises:
        ValueError: The counts lack what the objective needs, or the experts do not divide among the ranks.
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
