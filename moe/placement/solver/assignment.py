"""Placements of home-return dispatch: an assignment problem in each layer, exact where loads are free.

Shape legend: E experts per layer, G ranks of one expert-parallel group.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.objective import home_cost, require_sources
from moe.placement.counts import RoutingStatistics
from moe.placement.ranks import cheapest_ranks, contiguous_ranks
from moe.placement.solver.load_limits import start_within
from moe.placement.solver.protocol import Assignment
from moe.placement.solver.swaps import layer_problems
from moe.placement.topology import Topology

_ROUNDS = 60


def solve_assignment(
    statistics: RoutingStatistics, topology: Topology, *, seed: int, limits: NDArray[np.float64] | None = None
) -> Assignment:
    """Minimise the home-return cost; a `PlacementSolver` that draws nothing unless a limit binds.

    With the tokens of every source rank fixed, an expert's cost on a rank does not depend on where the others are,
    so a linear assignment of experts to slots is optimal. A layer stays contiguous if that costs no more. Where that
    assignment breaks a limit, the load of each rank gets a price that rises until the limit is kept (Lagrangian
    relaxation, Held, Karp 1970, which also bounds the cost), and exchanges improve what comes out.
    """
    sources = require_sources(statistics)
    contiguous = contiguous_ranks(statistics.num_layers, statistics.num_experts, topology.num_ranks)
    there_and_back = topology.cost + topology.cost.T
    best = np.stack([cheapest_ranks(tokens.T @ there_and_back) for tokens in sources])
    better = home_cost(statistics, best, topology.cost) < home_cost(statistics, contiguous, topology.cost)
    ranks = np.where(better[:, None], best, contiguous)
    bounds = home_cost(statistics, ranks, topology.cost)
    kept = start_within(statistics.loads, topology.num_ranks, limits)
    for layer, problem in enumerate(layer_problems(statistics, topology, "home", limits)):
        if not problem.keeps_limit(ranks[layer]):
            relaxed, bound = _relax(problem.base.T, problem.loads, problem.limit)
            starts = [kept[layer], problem.packed(), *relaxed]
            ranks[layer] = problem.search(starts, seed * statistics.num_layers + layer)
            bounds[layer] = max(bounds[layer], min(bound, problem.price(ranks[layer])))
    return Assignment(ranks, float(bounds.sum()))


def _relax(
    prices: NDArray[np.float64], loads: NDArray[np.float64], limit: float
) -> tuple[list[NDArray[np.int64]], float]:
    """Price the load of each rank until the limit is kept.

    Returns the two best assignments on the way, [E] each, by cost plus a penalty for load beyond the limit; and a lower
    bound on the cost of every assignment within the limit. Prices are [E, G].
    """
    num_ranks = prices.shape[1]
    rates = np.zeros(num_ranks)
    experts = np.arange(len(loads))
    bound, step = -np.inf, 1.0
    scale = max(float(np.ptp(prices, axis=1).sum()), 1e-300) / max(float(loads.sum()), 1.0)
    met: dict[bytes, tuple[float, NDArray[np.int64]]] = {}
    for _ in range(_ROUNDS):
        ranks = cheapest_ranks(prices + loads[:, None] * rates)
        cost = float(prices[experts, ranks].sum())
        over = np.bincount(ranks, weights=loads, minlength=num_ranks) - limit
        value = cost + float(rates @ over)
        met.setdefault(ranks.tobytes(), (max(float(over.max()), 0.0) * scale * num_ranks + cost, ranks))
        if value > bound:
            bound = value
        else:
            step *= 0.8
        rates = np.maximum(rates + step * scale * over / limit, 0.0)
    nearest = sorted(met.values(), key=lambda pair: pair[0])[:2]
    return [ranks for _, ranks in nearest], bound
