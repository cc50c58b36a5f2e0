"""Spare slots filled with replicas that even the loads of the ranks and save copies, under the quotas of a run.

Shape legend: E experts per layer, G ranks of one expert-parallel group, N distinct choice sets of a layer, K choices,
H samples of the loads.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.objective import require_sources
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.solver.layer_search import LayerProblem, layer_problems
from moe.placement.topology import Topology
from moe.routing_trace import DROPPED

_EXCESS = 5.0  # price of a choice beyond the limit, in visits
_FAVOURITES = 6  # experts that a slot tries because they save visits, and as many because they are busy
_PASSES = 3
_MOST_RANKS = 10  # whose replicas are chosen by trying; of larger groups the first choice stays

Busiest = Callable[[NDArray[np.int64], NDArray[np.bool_]], NDArray[np.float64]]


def replicate_within(
    statistics: RoutingStatistics,
    topology: Topology,
    dispatch: Dispatch,
    expert_ranks: NDArray[np.int64],
    slots_per_rank: int,
    limits: NDArray[np.float64] | None,
    rule: str,
) -> NDArray[np.bool_]:
    """Fill the spare slots of a placement in a home-return dispatch mode.

    A replica saves the visit of a token that chose its expert, visits the replica's rank anyway and needs no other
    expert of the rank where it is at home. Slots are filled by that, and then each is tried with other experts, as long
    as the loads on the whole trace and on two halves of the source ranks come nearer to the limit or more is saved.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks and what a move between them costs.
        dispatch: home, copies or hierarchical.
        expert_ranks: Rank of each expert, [L, E].
        slots_per_rank: Slots of one rank and layer, E / G to E.
        limits: Most choices of one rank by layer, [L]; None for no limit.
        rule: How a run splits choices over replicas: even or least_loaded.

    Returns:
        Ranks that hold each expert, bool [L, E, G].
    """
    sources = require_sources(statistics)
    layers = []
    for layer, problem in enumerate(layer_problems(statistics, topology, dispatch, limits)):
        saved = _saved_visits(problem, expert_ranks[layer])
        samples = np.stack([sources[layer].sum(axis=0), *(2 * sources[layer][half::2].sum(axis=0) for half in (0, 1))])
        layers.append(_fill(expert_ranks[layer], saved, samples, slots_per_rank, problem, _BUSIEST[rule]))
    return np.stack(layers)


def _busiest_of_even(samples: NDArray[np.int64], holders: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Load of the busiest rank where the replicas of an expert share its choices evenly, [H]."""
    return ((samples / holders.sum(axis=1)) @ holders).max(axis=1)


def _busiest_of_least_loaded(samples: NDArray[np.int64], holders: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The same where they share them as well as can be, [H]: a set of ranks computes at least the experts that no
    other rank holds, and the set that is fullest for its size sets the load (Hall's condition)."""
    num_ranks = holders.shape[1]
    sets = np.arange(1, 2**num_ranks)
    inside = (holders @ (1 << np.arange(num_ranks)) & ~sets[:, None]) == 0
    return (inside.astype(np.float64) @ samples.T / np.bitwise_count(sets)[:, None]).max(axis=0)


_BUSIEST: dict[str, Busiest] = {"even": _busiest_of_even, "least_loaded": _busiest_of_least_loaded}


def _saved_visits(problem: LayerProblem, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Tokens for which a replica of each expert on each rank could save a visit, [E, G]."""
    num_experts, num_ranks = len(ranks), problem.num_ranks
    if not len(problem.places):
        mean = problem.base.sum() / max(problem.loads.sum() * num_ranks, 1.0)
        return (problem.base[ranks, np.arange(num_experts)] - problem.base).T / max(mean, 1e-300)
    saved = np.zeros((num_experts, num_ranks))
    row, choice = np.nonzero(problem.experts != DROPPED)
    chosen = problem.experts[row, choice]
    held = np.zeros((len(problem.experts), num_ranks), np.int64)
    np.add.at(held, (row, ranks[chosen]), 1)
    alone = held[row, ranks[chosen]] == 1
    for rank in range(num_ranks):
        here = alone & (held[row, rank] > 0)
        saved[:, rank] = np.bincount(chosen[here], weights=problem.tokens[row[here]], minlength=num_experts)
    saved[np.arange(num_experts), ranks] = 0
    return saved


def _fill(
    ranks: NDArray[np.int64],
    saved: NDArray[np.float64],
    samples: NDArray[np.int64],
    slots_per_rank: int,
    problem: LayerProblem,
    measure: Busiest,
) -> NDArray[np.bool_]:
    """Choose the replicas of one layer; the loads of the samples, [H, E], are those of the whole trace, scaled."""
    num_ranks = problem.num_ranks
    at_home = ranks[:, None] == np.arange(num_ranks)
    holders = at_home.copy()
    worth = saved + 1e-6 * samples[0][:, None]
    for _ in range(slots_per_rank - len(ranks) // num_ranks):
        for rank in range(num_ranks):
            wish = np.where(holders[:, rank], -np.inf, worth[:, rank] / 2.0 ** (holders.sum(axis=1) - 1))
            holders[wish.argmax(), rank] = True
    if not np.isfinite(problem.limit) or num_ranks > _MOST_RANKS:
        return holders
    aims = samples.sum(axis=1) * problem.limit / max(samples[0].sum(), 1)

    def price(tried: NDArray[np.bool_]) -> float:
        beyond = np.maximum(measure(samples, tried) - aims, 0.0)
        number = tried.sum(axis=1)
        gained = (saved * (tried & ~at_home)).sum(axis=1) / np.maximum(number, 1)
        return float(_EXCESS * (beyond[0] + beyond[1:].mean()) - gained.sum())

    best = price(holders)
    for _ in range(_PASSES):
        before = best
        for rank in range(num_ranks):
            for given in np.flatnonzero(holders[:, rank] & ~at_home[:, rank]):
                favourites = [*np.argsort(-saved[:, rank])[:_FAVOURITES], *np.argsort(-samples[0])[: 2 * _FAVOURITES]]
                for taken in dict.fromkeys(expert for expert in favourites if not holders[expert, rank]):
                    tried = holders.copy()
                    tried[[given, taken], rank] = False, True
                    value = price(tried)
                    if value < best - 1e-9 * abs(best):
                        best, holders, given = value, tried, taken
        if best == before:
            return holders
    return holders
