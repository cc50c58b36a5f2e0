"""Home-return dispatch, solved exactly: the layers are independent, and each is an assignment problem."""

import numpy as np

from moe.placement.contiguous import contiguous_ranks
from moe.placement.cost.objective import home_cost, require_sources
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.slots import cheapest_ranks
from moe.placement.solver.protocol import Assignment
from moe.placement.topology import Topology


def solve_assignment(statistics: RoutingStatistics, topology: Topology, *, seed: int) -> Assignment:
    """Minimise the home-return cost; a `PlacementSolver` that draws nothing.

    With the tokens of every source rank fixed, an expert's cost on a rank does not depend on where the others are,
    so a linear assignment of experts to slots is optimal. A layer stays contiguous if that costs no more.
    """
    del seed
    sources = require_sources(statistics)
    ranks = contiguous_ranks(statistics.num_layers, statistics.num_experts, topology.num_ranks)
    there_and_back = topology.cost + topology.cost.T
    best = np.stack([cheapest_ranks(tokens.T @ there_and_back) for tokens in sources])
    better = home_cost(statistics, best, topology.cost) < home_cost(statistics, ranks, topology.cost)
    ranks = np.where(better[:, None], best, ranks)
    return Assignment(ranks, float(home_cost(statistics, ranks, topology.cost).sum()))
