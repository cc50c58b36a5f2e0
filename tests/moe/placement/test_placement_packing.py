"""Balanced loads and replicas: packing, copies of experts, and the rule by which tokens choose among them."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest

from moe.placement import Placement
from moe.placement.cost.evaluation import evaluate, evaluate_placement
from moe.placement.cost.objective import OBJECTIVES, TRAFFIC
from moe.placement.cost.replicas import replicated_moves, shares
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.ranks import contiguous_ranks
from moe.placement.solver.packing import busiest, count_copies, pack_layer
from moe.placement.solver.replication import replicate_within, replicated_home_bound
from moe.placement.solver.solve import solve
from moe.placement.topology import Topology
from moe.replica import QUOTAS
from moe.routing_trace import RoutingTrace
from tests.each import each
from tests.moe.exhaustive import uneven_topology
from tests.moe.traces import dropping_trace, markov_trace, trace

MODES: list[Dispatch] = ["coherent", "home", "copies", "hierarchical"]
RETURNING: list[Dispatch] = ["home", "copies", "hierarchical"]


def skewed_trace(tokens: int, *, seed: int, top_k: int = 2) -> RoutingTrace:
    """Choices by Zipf's law, other favourites in each layer; the ranks hold different tokens."""
    draw = np.random.default_rng(seed)
    popularity = 1 / (1 + np.arange(8))
    ids = np.empty((tokens, 4, top_k), int)
    source = draw.integers(4, size=tokens)
    for layer in range(4):
        weights = (
            np.log(popularity[draw.permutation(8)])
            + draw.gumbel(size=(tokens, 8))
            + (np.arange(8) // 2 == source[:, None])
        )
        ids[:, layer] = np.argsort(-weights, axis=1)[:, :top_k]
    return trace(ids, source, 8, 4)


def random_holders(slots: int, seed: int, layers: int = 4) -> np.ndarray:
    draw = np.random.default_rng(seed)
    holders = contiguous_ranks(layers, 8, 4)[:, :, None] == np.arange(4)
    for layer in holders:
        for rank in range(4):
            spare = draw.permutation(np.flatnonzero(~layer[:, rank]))[: slots - 2]
            layer[spare, rank] = True
    return holders


def coherent_walk(routing: RoutingTrace, topology: Topology, holders: np.ndarray) -> tuple[float, np.ndarray]:
    """Cost and loads where every first choice takes the nearest replica, one of those at equal distance by lot."""
    total, loads, draw = 0.0, np.zeros(holders.shape[::2]), np.random.default_rng(0)
    at = routing.source_rank.astype(int) % topology.num_ranks
    for layer in range(holders.shape[0]):
        share = shares(holders[layer], topology.cost)[at, routing.expert_ids[:, layer, 0]]
        served = (draw.random(len(at))[:, None] < share.cumsum(axis=1)).argmax(axis=1)
        np.add.at(loads[layer], served, 1)
        total += topology.cost[at, served].sum() if layer else 0
        at = served
    return total, loads


def deal_one_by_one(
    tokens: list[tuple[int, ...]], counts: np.ndarray, quotas: np.ndarray, holders: np.ndarray
) -> list[dict[int, int]]:
    """Rank that serves each choice of each token of one source: experts with replicas by their ids, and for each the
    tokens that visit one of its ranks anyway, then those that visit several, then the others."""
    served = [{e: int(np.flatnonzero(holders[e])[0]) for e in t if holders[e].sum() == 1} for t in tokens]
    for expert in np.flatnonzero((holders.sum(axis=1) > 1) & (counts > 0)).tolist():
        ranks = np.flatnonzero(holders[expert])
        left = {int(rank): int(quotas[expert, rank]) for rank in ranks}
        asking = [index for index, token in enumerate(tokens) if expert in token]
        visited = {index: [r for r in left if r in served[index].values()] for index in asking}
        for wanted in (lambda number: number == 1, lambda number: number > 1):
            for rank in left:
                for index in asking:
                    fits = expert not in served[index] and rank in visited[index] and wanted(len(visited[index]))
                    if fits and left[rank]:
                        served[index][expert] = rank
                        left[rank] -= 1
        for rank in left:
            for index in asking:
                if expert not in served[index] and left[rank]:
                    served[index][expert] = rank
                    left[rank] -= 1
    return served


def returning_walk(
    routing: RoutingTrace, topology: Topology, holders: np.ndarray, dispatch: Dispatch, rule: str
) -> tuple[float, np.ndarray]:
    """Cost and loads of a home-return mode, with every choice dealt by the rule; tokens in the order of their sets."""
    total, loads, cost = 0.0, np.zeros(holders.shape[::2]), topology.cost + topology.cost.T
    ranks, width = topology.num_ranks, topology.ranks_per_node
    for layer, held in enumerate(holders):
        home = routing.source_rank.astype(int) % ranks
        sets = [tuple(sorted(e for e in ids if e >= 0)) for ids in routing.expert_ids[:, layer].tolist()]
        counts = np.zeros((ranks, 8), int)
        for source, chosen in zip(home, sets, strict=True):
            counts[source, list(chosen)] += 1
        quotas = QUOTAS[rule](counts, held, layer)
        for source in range(ranks):
            tokens = sorted((s for h, s in zip(home, sets, strict=True) if h == source), key=lambda s: (len(s), s))
            for token in deal_one_by_one(tokens, counts[source], quotas[source], held):
                np.add.at(loads[layer], list(token.values()), 1)
                visited = list(token.values()) if dispatch == "home" else set(token.values())
                if dispatch != "hierarchical":
                    total += sum(cost[source, rank] for rank in visited)
                    continue
                for node in {rank // width for rank in visited}:
                    relay = node * width + source % width
                    total += cost[source, relay] + sum(cost[relay, rank] for rank in visited if rank // width == node)
    return total, loads


def test_packing_balances_as_well_as_trying_all() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        loads = (draw.pareto(1.2, size=6) * 100).astype(int) + 1
        least = min(
            max(loads[list(order[start : start + 2])].sum() for start in (0, 2, 4)) for order in permutations(range(6))
        )
        holders = pack_layer(loads, 3, 2)
        assert (holders.sum(axis=0) == 2).all()
        assert (holders.sum(axis=1) == 1).all()
        assert busiest(loads, holders) == least


@each("slots", [3, 4, 6, 8])
def test_packing_with_replicas_fills_every_slot_and_never_doubles_an_expert_on_a_rank(slots: int) -> None:
    draw = np.random.default_rng(slots)
    for _ in range(20):
        loads = (draw.pareto(0.8, size=8) * 100).astype(int)
        holders = pack_layer(loads, 4, slots)
        assert (holders.sum(axis=0) == slots).all()
        np.testing.assert_array_equal(holders.sum(axis=1), count_copies(loads, 4, 4 * slots))
        assert holders.any(axis=1).all()
        assert busiest(loads, holders) <= max(busiest(loads, pack_layer(loads, 4, 2)), loads.sum() / 4 * 1.35)


def test_copies_go_to_the_largest_load_per_copy() -> None:
    assert count_copies(np.array([90, 132, 40, 61]), 8, 6).tolist() == [2, 2, 1, 1]
    assert count_copies(np.array([1000, 1, 1, 1]), 2, 6).tolist() == [2, 2, 1, 1], "no more copies than ranks"
    assert count_copies(np.zeros(3, int), 2, 6).tolist() == [2, 2, 2]


def test_a_pack_that_runs_into_a_full_rank_makes_room() -> None:
    holders = pack_layer(np.array([100, 1, 1, 1, 1, 1, 1, 1, 1]), 3, 6)
    assert (holders.sum(axis=0) == 6).all()
    assert holders.sum() == 18


@each("dispatch", MODES)
def test_without_replicas_the_moves_are_those_of_a_plain_placement(dispatch: Dispatch) -> None:
    routing = dropping_trace(8, 4, 2, 300, seed=0, world_size=4, drop=0.2)
    statistics = RoutingStatistics.collect(routing, 4)
    topology = Topology.hops(2, 2)
    ranks = np.stack([np.random.default_rng(layer).permutation(np.arange(8) // 2) for layer in range(4)])
    moves, loads = replicated_moves(statistics, topology, ranks[:, :, None] == np.arange(4), dispatch)
    np.testing.assert_allclose(moves, TRAFFIC[dispatch](statistics, ranks, 4, 2), atol=1e-9)
    np.testing.assert_allclose(loads, evaluate(statistics, topology, ranks, dispatch).rank_loads, atol=1e-9)


@each("slots", [3, 5])
def test_expected_coherent_moves_and_loads_agree_with_tokens_that_follow_the_rule(slots: int) -> None:
    topology = Topology.hops(2, 2)
    routing = markov_trace(8, 4, 0.7, 12_000, seed=0, world_size=4)
    statistics, holders = RoutingStatistics.collect(routing, 4), random_holders(slots, 0)
    moves, loads = replicated_moves(statistics, topology, holders, "coherent")
    cost, walked_loads = coherent_walk(routing, topology, holders)
    assert (moves * topology.cost).sum() == pytest.approx(cost, rel=0.02)
    np.testing.assert_allclose(loads, walked_loads, rtol=0.06)
    assert loads.sum() == pytest.approx(walked_loads.sum())


@each("rule, dispatch, slots", product(QUOTAS, RETURNING, [3, 5]))
def test_moves_and_loads_are_those_of_choices_dealt_one_by_one(dispatch: Dispatch, slots: int, rule: str) -> None:
    topology = Topology.hops(2, 2)
    for routing in (skewed_trace(400, seed=0), dropping_trace(8, 4, 3, 300, seed=1, world_size=4, drop=0.2)):
        statistics, holders = RoutingStatistics.collect(routing, 4), random_holders(slots, 0)
        moves, loads = replicated_moves(statistics, topology, holders, dispatch, rule)
        cost, walked_loads = returning_walk(routing, topology, holders, dispatch, rule)
        assert (moves * topology.cost).sum() == cost
        np.testing.assert_array_equal(loads, walked_loads)


@each("dispatch, solver", product(MODES, ["auto", "packing", "contiguous"]))
def test_replicas_are_placed_read_and_measured(dispatch: Dispatch, solver: str) -> None:
    topology = Topology.hops(2, 2)
    statistics = RoutingStatistics.collect(skewed_trace(2_000, seed=1), 4)
    plain = solve(statistics, topology, objective=dispatch, solver=solver)
    costs = [evaluate_placement(statistics, topology, plain).cost]
    for slots in (3, 8):
        one = solve(statistics, topology, objective=dispatch, solver=solver, slots=slots)
        assert one == Placement.model_validate_json(one.model_dump_json())
        assert slots != 3 or one == solve(statistics, topology, objective=dispatch, solver=solver, slots=slots)
        assert one.slots_per_rank == slots
        traffic, record = evaluate_placement(statistics, topology, one), one.objective
        assert record is not None
        assert traffic.cost == pytest.approx(record.cost)
        assert record.lower_bound <= record.cost
        costs.append(traffic.cost)
    if dispatch == "coherent":
        assert costs[-1] == 0, "every rank holds every expert"
        assert solver == "packing" or costs == sorted(costs, reverse=True)
    if solver != "packing" and dispatch != "home":  # whose even quotas send choices away from home
        assert costs[1] < costs[0]


@each("rule", QUOTAS)
def test_replicas_even_the_loads_and_send_no_more_copies(rule: str) -> None:
    topology = Topology.hops(2, 2)
    statistics = RoutingStatistics.collect(skewed_trace(3_000, seed=3, top_k=3), 4)
    plain = solve(statistics, topology, objective="copies", max_load=1.3, strict=False)
    placed = solve(statistics, topology, objective="copies", max_load=1.05, strict=False, slots=3, rule=rule)
    before = evaluate_placement(statistics, topology, plain)
    after = evaluate_placement(statistics, topology, placed, rule=rule)
    assert after.imbalance.mean() < before.imbalance.mean()
    assert after.cost <= before.cost
    assert placed.load is not None
    assert placed.load.worst == pytest.approx(after.imbalance.max())


def test_the_home_return_bound_holds_for_any_replicas_and_rule() -> None:
    topology = Topology.hops(2, 2)
    statistics = RoutingStatistics.collect(skewed_trace(1_500, seed=3), 4)
    bound = replicated_home_bound(statistics, topology, 3)
    filled = replicate_within(statistics, topology, "home", contiguous_ranks(4, 8, 4), 3, None, "even")
    assert (filled.sum(axis=1) == 3).all()
    for rule in QUOTAS:
        for holders in (filled, *(random_holders(3, seed) for seed in range(10))):
            moves = replicated_moves(statistics, topology, holders, "home", rule)[0]
            assert 0 < bound <= (moves * topology.cost).sum()
    assert replicated_home_bound(statistics, topology, 8) == 0


def test_packing_lowers_the_busiest_rank_and_its_order_of_ranks_saves_moves() -> None:
    topology = Topology.hops(2, 2)
    statistics = RoutingStatistics.collect(skewed_trace(3_000, seed=2), 4)
    contiguous = evaluate(statistics, topology, contiguous_ranks(4, 8, 4), "home")
    for dispatch in MODES:
        packed = solve(statistics, topology, objective=dispatch, solver="packing")
        traffic = evaluate_placement(statistics, topology, packed)
        assert (traffic.imbalance <= contiguous.imbalance).all()
        assert traffic.imbalance.mean() < contiguous.imbalance.mean()
    home = solve(statistics, topology, objective="home", solver="packing").expert_ranks()
    orders = [np.array(order) for order in permutations(range(4))]
    for layer in range(4):
        costs = [OBJECTIVES["home"](statistics, order[home], topology.cost)[layer] for order in orders]
        assert OBJECTIVES["home"](statistics, home, topology.cost)[layer] == pytest.approx(min(costs))


def test_packed_groups_of_few_ranks_stand_in_the_cheapest_coherent_order() -> None:
    routing, topology = markov_trace(8, 2, 0.7, 300, seed=1, world_size=4), uneven_topology(2, 2, 4)
    statistics = RoutingStatistics.collect(routing, 4)
    packed = solve(statistics, topology, objective="coherent", solver="packing").expert_ranks()
    orders = [np.array(order) for order in permutations(range(4))]
    costs = [
        OBJECTIVES["coherent"](statistics, np.stack([one[packed[0]], two[packed[1]]]), topology.cost).sum()
        for one, two in product(orders, orders)
    ]
    assert OBJECTIVES["coherent"](statistics, packed, topology.cost).sum() == pytest.approx(min(costs))


def test_even_loads_leave_packing_nothing_to_do() -> None:
    ids = np.tile(np.arange(8)[:, None, None], (10, 3, 1))
    statistics = RoutingStatistics.collect(trace(ids, ids[:, 0, 0] // 2, 8, 4), 4)
    packed = solve(statistics, Topology.hops(2, 2), objective="coherent", solver="packing")
    assert packed.rank_experts == Placement.contiguous(3, 8, 2, 2).rank_experts


def test_jumps_over_dropped_layers_count_with_replicas_too() -> None:
    routing = dropping_trace(8, 4, 1, 3_000, seed=4, world_size=4, drop=0.3)
    statistics, topology = RoutingStatistics.collect(routing, 4), Topology.hops(2, 2)
    assert statistics.skipped
    full = np.ones((4, 8, 4), bool)
    moves, loads = replicated_moves(statistics, topology, full, "coherent")
    assert moves.sum() == pytest.approx(statistics.moves)
    assert (moves * topology.off_rank).sum() == 0
    np.testing.assert_allclose(loads.sum(axis=1), statistics.loads.sum(axis=1))
    without = replace(statistics, jumps=np.zeros((0, 5), np.int64))
    placed = solve(statistics, topology, objective="coherent", slots=4)
    fewer = replicated_moves(without, topology, placed.holders(), "coherent")[0]
    assert fewer.sum() < replicated_moves(statistics, topology, placed.holders(), "coherent")[0].sum()
