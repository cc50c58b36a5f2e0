"""Placements packed by load, and spare slots filled with replicas.

In coherent dispatch a replica goes where it saves most moves; all experts of a layer weigh the same, so the one that
saves most per byte is the one that saves most. In the other modes replicas even the loads of the ranks too, under the
quotas of a run.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, N distinct choice sets of a
layer, K choices, H samples of the loads.
"""

from collections.abc import Callable
from dataclasses import replace
from math import factorial

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.objective import require_sources
from moe.placement.cost.replicas import arrivals, settle, shares
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.ranks import cheapest_ranks, contiguous_ranks
from moe.placement.solver.coherent import best_sweep
from moe.placement.solver.descent import Descent
from moe.placement.solver.enumeration import MOST_STATES, cheapest_path
from moe.placement.solver.packing import busiest, pack_layer
from moe.placement.solver.swaps import LayerProblem, layer_problems
from moe.placement.topology import Topology
from moe.routing_trace import DROPPED

_EXCESS = 5.0  # price of a choice beyond the limit, in visits
_FAVOURITES = 6  # experts that a slot tries because they save visits, and as many because they are busy
_PASSES = 3
_MOST_RANKS = 10  # whose replicas are chosen by trying; of larger groups the first choice stays
_AIM = 0.4  # share of the distance between mean and limit that is aimed at: tokens not seen are less even


def pack(
    statistics: RoutingStatistics, topology: Topology, dispatch: Dispatch, slots_per_rank: int, *, seed: int
) -> NDArray[np.bool_]:
    """Balance the loads of the ranks, layer by layer, then permute whole ranks to save moves: holders [L, E, G].

    Spare slots go to the experts with the largest load per copy (as in EPLB). Copies go to ranks in order of their
    load, each to the least loaded rank that still has a slot and no copy of the expert; exchanges between the busiest
    rank and the others follow. A layer stays contiguous if that is as balanced. The assignment of whole groups to ranks
    does not change the balance: it is chosen by the dispatch mode's cost.
    """
    contiguous = contiguous_ranks(1, statistics.num_experts, topology.num_ranks)[0]
    layers = []
    for loads in statistics.loads:
        holders = pack_layer(loads, topology.num_ranks, slots_per_rank)
        if slots_per_rank * topology.num_ranks == statistics.num_experts:
            plain = contiguous[:, None] == np.arange(topology.num_ranks)
            holders = plain if busiest(loads, plain) <= busiest(loads, holders) else holders
        layers.append(holders)
    return _order_ranks(np.stack(layers), statistics, topology, dispatch, seed)


def _order_ranks(
    holders: NDArray[np.bool_], statistics: RoutingStatistics, topology: Topology, dispatch: Dispatch, seed: int
) -> NDArray[np.bool_]:
    """Assign each group of experts to the rank that saves most moves, treating a group as one expert.

    Coherent dispatch over few ranks has an exact answer; over many it is searched.
    """
    shares = holders / holders.sum(axis=2, keepdims=True)
    num_layers, _, num_ranks = holders.shape
    if dispatch == "coherent":
        jumps = statistics.jumps
        pairs = shares[jumps[:, 0], jumps[:, 2]][:, :, None] * shares[jumps[:, 1], jumps[:, 3]][:, None, :]
        tokens = pairs * jumps[:, 4, None, None]
        jump, one, other = np.nonzero(tokens)
        ends = jumps[jump, 0], jumps[jump, 1], one, other, tokens[jump, one, other]
        transitions = np.stack(
            [shares[gap].T @ statistics.transitions[gap] @ shares[gap + 1] for gap in range(num_layers - 1)]
            or [np.zeros((0, num_ranks, num_ranks))]
        ).reshape(-1, num_ranks, num_ranks)
        grouped = np.rint(transitions).astype(np.int64), np.rint(np.stack(ends, axis=1)).astype(np.int64)
        if not len(jumps) and factorial(num_ranks) <= MOST_STATES:
            loads = np.ones((num_layers, num_ranks), np.int64)
            groups = replace(statistics, transitions=grouped[0], loads=loads, visits=None)
            ranks = cheapest_path(groups, topology.cost)[0]
        else:
            ranks = best_sweep(Descent(*grouped, topology.cost), np.random.default_rng(seed))
    else:
        there_and_back = topology.cost + topology.cost.T
        ranks = np.stack(
            [
                cheapest_ranks((tokens @ share).T @ there_and_back)
                for tokens, share in zip(require_sources(statistics), shares, strict=True)
            ]
        )
    return np.stack([layer[:, np.argsort(order)] for layer, order in zip(holders, ranks, strict=True)])


def replicate(
    statistics: RoutingStatistics, topology: Topology, expert_ranks: NDArray[np.int64], slots_per_rank: int
) -> NDArray[np.bool_]:
    """Fill the spare slots of a placement [L, E] greedily with the copies that save most: holders, bool [L, E, G].

    A copy also changes the rank from which tokens leave: both moves are counted, with the layers before as filled
    already and the layers after as they are. Slots are filled even if nothing more can be saved.
    """
    holders = expert_ranks[:, :, None] == np.arange(topology.num_ranks)
    located = holders.astype(np.float64)
    for layer in range(len(holders)):
        arriving = arrivals(statistics, layer, located, topology.num_ranks)
        starting = np.maximum(statistics.anchors[layer] - arriving.sum(axis=0), 0) / topology.num_ranks
        onward = _onward(statistics, topology.cost, layer, holders)
        _fill_for_moves(holders[layer], arriving + starting, arriving, topology.cost, onward, slots_per_rank)
        located[layer] = settle(statistics, layer, arriving, shares(holders[layer], topology.cost))
    return holders


def replicated_home_bound(statistics: RoutingStatistics, topology: Topology, slots_per_rank: int) -> float:
    """Bound the home-return cost of any placement with replicas.

    A rank or node keeps at most the experts it has slots for, and every other choice leaves it.
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


def _fill_for_moves(
    holders: NDArray[np.bool_],
    tokens: NDArray[np.float64],
    priced: NDArray[np.float64],
    cost: NDArray[np.float64],
    onward: NDArray[np.float64],
    slots_per_rank: int,
) -> None:
    """Add copies to one layer until its slots are full: changes holders [E, G].

    Args:
        holders: Ranks that hold each expert.
        tokens: Tokens that come from each rank to each expert, [G, E].
        priced: Those of them whose move counts, [G, E].
        cost: Cost of their moves between ranks, [G, G].
        onward: Cost of the next move, by expert and rank, [E, G].
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
        free = holders.sum(axis=0) < slots_per_rank
        if not free.any():
            return
        possible = ~holders & free
        if not possible.any():
            raise AssertionError("a rank has more slots than there are experts")
        best = np.where(possible, savings, -np.inf)
        equal = best >= best.max() - 1e-12 * max(abs(float(best.max())), 1.0)
        busy = np.where(equal, (loads / holders.sum(axis=1))[:, None], -np.inf)
        expert, rank = np.unravel_index(busy.argmax(), busy.shape)
        holders[expert, rank] = True
        savings[expert] = saving(int(expert))


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
    """Fill the spare slots of a placement [L, E] in a home-return dispatch mode: holders, bool [L, E, G].

    A replica saves the visit of a token that chose its expert, visits the replica's rank anyway and needs no other
    expert of the rank where it is at home. Slots are filled by these savings. Then other experts are tried in each
    slot, as long as more is saved or the loads on the whole trace and on two halves of the source ranks come nearer to
    the limit.
    `rule`, even or least_loaded, splits the choices of a run over replicas.
    """
    sources = require_sources(statistics)
    layers = []
    for layer, problem in enumerate(layer_problems(statistics, topology, dispatch, limits)):
        saved = _saved_visits(problem, expert_ranks[layer])
        samples = np.stack([sources[layer].sum(axis=0), *(2 * sources[layer][half::2].sum(axis=0) for half in (0, 1))])
        layers.append(_fill_for_loads(expert_ranks[layer], saved, samples, slots_per_rank, problem, _BUSIEST[rule]))
    return np.stack(layers)


def _busiest_of_even(samples: NDArray[np.int64], holders: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Load of the busiest rank where the replicas of an expert share its choices evenly, [H]."""
    return ((samples / holders.sum(axis=1)) @ holders).max(axis=1)


def _busiest_of_least_loaded(samples: NDArray[np.int64], holders: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Load of the busiest rank if replicas share choices best, [H]: a set of ranks computes at least the experts that
    no other rank holds, and the set that is fullest for its size sets the load (Hall's condition)."""
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


def _fill_for_loads(
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
    means = samples.sum(axis=1) / num_ranks
    aims = means * (1 + _AIM * (problem.limit / max(means[0], 1e-300) - 1))

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
