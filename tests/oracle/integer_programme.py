"""Coherent placements by a mixed-integer programme: slow, but exact with its own bound; it checks the searches.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, S experts of one rank and layer.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import block_array, block_diag, csr_array, diags_array, eye_array, kron, vstack

from moe.placement.bound.coherent import best_bound
from moe.placement.cost.objective import coherent_cost
from moe.placement.counts import RoutingStatistics, Tally, layer_blocks
from moe.placement.ranks import cheapest_ranks
from moe.placement.solver.load_limits import keeps, start_within
from moe.placement.solver.protocol import Assignment
from moe.placement.topology import Topology
from moe.routing_trace import DROPPED

NODES = 3 * 10**6
"""Times binaries squared: branch-and-bound nodes, each dearer the more binaries there are."""
_ROUNDING = 1e-9  # of a limit, which is a product of a mean load and a cap
_TOLERANCE = 1e-5  # some ten times that of HiGHS; taken off its bound for every expert, in units of the programme


def solve_milp(
    statistics: RoutingStatistics, topology: Topology, *, seed: int, limits: NDArray[np.float64] | None = None
) -> Assignment:
    """Minimise the coherent cost by branch and bound (HiGHS); a `PlacementSolver` that draws nothing.

    ExFlow's programme (arXiv 2401.08383) has a binary for every token and gap. Here x[l, i, g] is 1 if expert i of
    layer l is on rank g, and t[l, i, g] is what its tokens then pay to move on, 0 if it is elsewhere. Over balanced
    assignments that payment is at least low[l, i, g] and at most high[l, i, g], both by sorting, so that

        min sum t   with   t >= payment(x) - high (1 - x),   t >= low x,   every expert on a rank, S experts a rank

    is exact, for any cost matrix and with jumps. Limits add the choices that each rank computes; several choices a
    token add `visits_programme`. The search ends after a number of nodes, not of seconds.
    """
    del seed
    num_ranks = topology.num_ranks
    ranks = start_within(statistics.loads, num_ranks, limits)
    bound = best_bound(statistics, topology, limits)
    tokens = statistics.moves if statistics.visits is None else int(statistics.visits.tokens.sum())
    unit = tokens * topology.cost.max() / ranks.size
    if unit > 0:
        chosen, dual_bound = _branch_and_bound(statistics, topology, unit, limits)
        choices = [ranks] if chosen is None or not _kept(statistics, chosen, num_ranks, limits) else [chosen, ranks]
        ranks = min(choices, key=lambda ranks: coherent_cost(statistics, ranks, topology.cost).sum())
        bound = max(bound, (dual_bound - _TOLERANCE * ranks.size) * unit)
    return Assignment(ranks, bound)


def _branch_and_bound(
    statistics: RoutingStatistics, topology: Topology, unit: float, limits: NDArray[np.float64] | None
) -> tuple[NDArray[np.int64] | None, float]:
    """The best assignment found, [L, E], and a lower bound on the optimum, in units."""

    num_layers, num_experts, num_ranks = statistics.num_layers, statistics.num_experts, topology.num_ranks
    size = num_layers * num_experts
    binaries = size * num_ranks
    if statistics.visits is None:
        costs, rows, least = _anchors_programme(statistics, topology, unit)
    else:
        costs, rows, least = visits_programme(statistics.visits, topology.cost, num_layers, num_experts, unit)
    on_one_rank = kron(eye_array(size), np.ones((1, num_ranks)))
    on_each_rank = kron(eye_array(num_layers), kron(np.ones((1, num_experts)), eye_array(num_ranks)))
    shares = [on_one_rank, on_each_rank]
    low = high = np.repeat([1.0, num_experts // num_ranks], [size, num_layers * num_ranks])
    if limits is not None:
        loaded = (statistics.loads / np.maximum(limits, _ROUNDING)[:, None])[:, None]
        shares.append(kron(block_diag(list(loaded)), eye_array(num_ranks)))
        low = np.append(low, np.full(num_layers * num_ranks, -np.inf))
        high = np.append(high, np.full(num_layers * num_ranks, 1 + _ROUNDING))
    balance = vstack(shares).tocsr()
    balance.resize((len(low), len(costs)))
    highest = np.concatenate(
        [_one_of_each_kind(num_layers, num_experts, topology), np.full(len(costs) - binaries, np.inf)]
    )
    answer = milp(
        costs,
        integrality=np.repeat([1, 0], [binaries, len(costs) - binaries]),
        bounds=Bounds(0, highest),  # pyright: ignore[reportArgumentType]
        constraints=[
            LinearConstraint(rows, lb=least),  # pyright: ignore[reportArgumentType]
            LinearConstraint(balance, low, high),  # pyright: ignore[reportArgumentType]
        ],
        options={"node_limit": max(NODES // binaries**2, 1), "mip_rel_gap": 0.0},
    )
    if answer.x is None:
        return None, answer.mip_dual_bound or 0.0
    found = answer.x[:binaries].reshape(num_layers, num_experts, num_ranks)
    return np.stack([cheapest_ranks(-layer) for layer in found]), answer.mip_dual_bound


def _anchors_programme(
    statistics: RoutingStatistics, topology: Topology, unit: float
) -> tuple[NDArray[np.float64], Any, NDArray[np.float64]]:
    """Costs of x and t, rows of constraints on both, and the least value of each row."""

    blocks = layer_blocks(statistics, 0, statistics.num_layers) / unit
    size = statistics.num_layers * statistics.num_experts
    payment = kron(blocks.reshape(size, size), topology.cost)
    low, high = _extremes(blocks, topology.cost)
    ones = eye_array(len(high))
    rows = block_array([[-payment - diags_array(high), ones], [-diags_array(low), ones]]).tocsr()
    return np.repeat([0.0, 1.0], len(high)), rows, np.concatenate([-high, np.zeros(len(low))])


def visits_programme(
    visits: Tally, cost: NDArray[np.float64], num_layers: int, num_experts: int, unit: float
) -> tuple[NDArray[np.float64], Any, NDArray[np.float64]]:
    """Write moves and copies as a linear programme over x and further variables of at least 0.

    z[s, r] >= x[l, i, r] says for each expert i of a set s of choices that rank r is visited. Visits V that leave an
    expert on rank g pay at least the sum over V and r of z cost[g, r], those that end at an anchor on rank g that of
    z cost[r, g], and both ways if they start there; t is the payment if the expert is on g, else 0. Tokens times cost
    count in `unit`.

    Returns the costs of all variables, x first, rows of constraints, and the least value of each row.
    """

    num_ranks = len(cost)
    binaries = num_layers * num_experts * num_ranks
    ranks = range(num_ranks)
    layer, from_layer, origin, anchor = visits.rows[:, :4].T
    chosen = np.sort(visits.rows[:, 3:], axis=1)
    sets, member = np.unique(np.column_stack([layer, chosen]), axis=0, return_inverse=True)
    member = member.ravel()
    visited = (binaries + np.arange(len(sets))[:, None] * num_ranks + np.arange(num_ranks)).tolist()
    entries: list[tuple[int, int, float]] = []
    least: list[float] = []
    for number, row in enumerate(sets):
        for expert in row[1:][row[1:] != DROPPED]:
            for rank in ranks:
                entries += [(len(least), visited[number][rank], 1.0)]
                entries += [(len(least), int(row[0] * num_experts + expert) * num_ranks + rank, -1.0)]
                least.append(0.0)
    starts = from_layer == DROPPED
    paying: dict[tuple[int, int, bool], list[int]] = {}
    for visit in range(len(visits.rows)):
        paying.setdefault((int(layer[visit]), int(anchor[visit]), True), []).append(visit)
        if not starts[visit]:
            paying.setdefault((int(from_layer[visit]), int(origin[visit]), False), []).append(visit)
    payments = binaries + len(sets) * num_ranks
    for number, ((where, expert, ends), rows) in enumerate(paying.items()):
        for rank in ranks:
            price = cost[:, rank] if ends else cost[rank]
            prices = np.array([price + cost[rank] if ends and starts[visit] else price for visit in rows])
            prices *= visits.tokens[rows][:, None] / unit
            most = float(prices.sum())
            entries.append((len(least), payments + number * num_ranks + rank, 1.0))
            entries.append((len(least), (where * num_experts + expert) * num_ranks + rank, -most))
            for visit, per_rank in zip(rows, prices, strict=True):
                entries += [(len(least), visited[member[visit]][to], -float(per_rank[to])) for to in ranks]
            least.append(-most)
    row, column, value = zip(*entries, strict=True)
    width = payments + len(paying) * num_ranks
    costs = np.repeat([0.0, 1.0], [payments, width - payments])
    return costs, csr_array((value, (row, column)), shape=(len(least), width)), np.array(least)


def _kept(
    statistics: RoutingStatistics, ranks: NDArray[np.int64], num_ranks: int, limits: NDArray[np.float64] | None
) -> bool:
    return limits is None or all(
        keeps(layer, loads, limit, num_ranks)
        for layer, loads, limit in zip(ranks, statistics.loads, limits, strict=True)
    )


def _extremes(blocks: NDArray[np.float64], cost: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Least and largest cost of the next moves of each expert's tokens from each rank, both flat, [L * E * G]."""
    tokens = np.sort(blocks, axis=3)
    prices = np.sort(np.repeat(cost, blocks.shape[1] // len(cost), axis=1), axis=1)
    low = np.einsum("limj,gj->lig", tokens, prices[:, ::-1])
    high = np.einsum("limj,gj->lig", tokens, prices)
    return low.ravel(), high.ravel()


def _one_of_each_kind(num_layers: int, num_experts: int, topology: Topology) -> NDArray[np.float64]:
    """Upper bounds on x, [L * E * G], that keep one of all assignments that differ only by a renaming of ranks.

    Where all nodes are alike and all ranks of a node, name nodes and the ranks of each by the first expert of layer 0
    that they get: expert i cannot be on rank k of node n if i < n + k, nor on rank g if all ranks are alike and i < g.
    """
    rank = np.arange(topology.num_ranks)
    highest = np.ones((num_layers, num_experts, topology.num_ranks))
    same_node = topology.cost[(topology.off_rank > 0) & (topology.off_node == 0)]
    other_node = topology.cost[topology.off_node > 0]
    if len({*same_node, *other_node}) == 1:
        highest[0] = np.arange(num_experts)[:, None] >= rank
    elif len({*same_node}) <= 1 and len({*other_node}) <= 1:
        node, place = np.divmod(rank, topology.ranks_per_node)
        highest[0] = np.arange(num_experts)[:, None] >= node + place
    return highest.ravel()
