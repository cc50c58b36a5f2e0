"""Balanced loads and replicas: packing, copies of experts, and the rule by which tokens choose among them."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from moe.placement import Placement
from moe.placement.contiguous import contiguous_ranks
from moe.placement.cost.evaluation import evaluate, evaluate_placement
from moe.placement.cost.objective import OBJECTIVES, TRAFFIC
from moe.placement.cost.replicas import choose_replicas, replicated_moves, shares
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.solver.packing import busiest, count_copies, pack_layer
from moe.placement.solver.replication import replicate, replicated_home_bound
from moe.placement.solver.solve import solve
from moe.placement.topology import Topology
from moe.routing_trace import RoutingTrace
from tests.moe.traces import dropping_trace, markov_trace, trace

MODES: list[Dispatch] = ["coherent", "home", "copies"]


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


def walk(
    routing: RoutingTrace, topology: Topology, holders: np.ndarray, dispatch: Dispatch
) -> tuple[float, np.ndarray]:
    """Cost and loads, with every choice served as the rule says, layer by layer."""
    total, loads = 0.0, np.zeros(holders.shape[::2])
    home = routing.source_rank.astype(int) % topology.num_ranks
    tokens = np.arange(routing.num_tokens)
    cost = topology.cost if dispatch == "coherent" else topology.cost + topology.cost.T
    at = None
    for layer in range(holders.shape[0]):
        choices = routing.expert_ids[:, layer, :1] if dispatch == "coherent" else routing.expert_ids[:, layer]
        start = home if at is None else at
        served = np.stack(
            [choose_replicas(experts, start, tokens, layer, holders[layer], cost) for experts in choices.T], axis=1
        )
        np.add.at(loads[layer], served.ravel(), 1)
        if dispatch == "coherent":
            total += 0 if at is None else cost[start, served[:, 0]].sum()
            at = served[:, 0]
        elif dispatch == "home":
            total += cost[home[:, None], served].sum()
        else:
            total += sum(
                cost[place, sorted(set(ranks))].sum() for place, ranks in zip(home, served.tolist(), strict=True)
            )
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


@pytest.mark.parametrize("slots", [3, 4, 6, 8])
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


def test_tokens_take_the_replica_on_their_rank_then_on_their_node_then_share_evenly() -> None:
    cost = Topology.hops(2, 2).cost
    holders = np.array([[True, False, True, False], [False, True, False, False], [True, True, False, False]])
    share = shares(holders, cost)
    assert share[0].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    assert share[3].tolist() == [[0, 0, 1, 0], [0, 1, 0, 0], [0.5, 0.5, 0, 0]]
    tokens = np.arange(4_000)
    experts, ranks = np.full(4_000, 2), np.full(4_000, 3)
    served = choose_replicas(experts, ranks, tokens, 0, holders, cost)
    assert np.bincount(served).tolist()[0] == pytest.approx(2_000, abs=150)
    np.testing.assert_array_equal(served, choose_replicas(experts, ranks, tokens, 0, holders, cost))
    order = np.random.default_rng(0).permutation(4_000)
    again = choose_replicas(experts, ranks, tokens[order], 0, holders, cost)
    np.testing.assert_array_equal(served[order], again, err_msg="a token's choice does not depend on the others")
    other_layer = choose_replicas(experts, ranks, tokens, 1, holders, cost)
    assert 0.4 < (served == other_layer).mean() < 0.6


@pytest.mark.parametrize("dispatch", MODES)
def test_without_replicas_the_moves_are_those_of_a_plain_placement(dispatch: Dispatch) -> None:
    routing = dropping_trace(8, 4, 2, 300, seed=0, world_size=4, drop=0.2)
    statistics = RoutingStatistics.collect(routing, 4)
    topology = Topology.hops(2, 2)
    ranks = np.stack([np.random.default_rng(layer).permutation(np.arange(8) // 2) for layer in range(4)])
    moves, loads = replicated_moves(statistics, topology, ranks[:, :, None] == np.arange(4), dispatch)
    np.testing.assert_allclose(moves, TRAFFIC[dispatch](statistics, ranks, 4), atol=1e-9)
    np.testing.assert_allclose(loads, evaluate(statistics, topology, ranks, dispatch).rank_loads, atol=1e-9)


@pytest.mark.parametrize("dispatch", MODES)
@pytest.mark.parametrize("slots", [3, 5])
def test_expected_moves_and_loads_agree_with_tokens_that_follow_the_rule(dispatch: Dispatch, slots: int) -> None:
    topology = Topology.hops(2, 2)
    if dispatch == "coherent":
        routing = markov_trace(8, 4, 0.7, 12_000, seed=0, world_size=4)
    else:
        routing = skewed_trace(12_000, seed=0)
    statistics, holders = RoutingStatistics.collect(routing, 4), random_holders(slots, 0)
    moves, loads = replicated_moves(statistics, topology, holders, dispatch)
    cost, walked_loads = walk(routing, topology, holders, dispatch)
    assert (moves * topology.cost).sum() == pytest.approx(cost, rel=0.02)
    np.testing.assert_allclose(loads, walked_loads, rtol=0.06)
    assert loads.sum() == pytest.approx(walked_loads.sum())


@pytest.mark.parametrize("dispatch", MODES)
@pytest.mark.parametrize("solver", ["auto", "packing", "contiguous"])
def test_replicas_are_placed_read_and_measured(dispatch: Dispatch, solver: str) -> None:
    topology = Topology.hops(2, 2)
    statistics = RoutingStatistics.collect(skewed_trace(2_000, seed=1), 4)
    plain = solve(statistics, topology, objective=dispatch, solver=solver)
    costs = [evaluate_placement(statistics, topology, plain).cost]
    for slots in (3, 5, 8):
        one, same = (solve(statistics, topology, objective=dispatch, solver=solver, slots=slots) for _ in range(2))
        assert one == same == Placement.model_validate_json(one.model_dump_json())
        assert one.slots_per_rank == slots
        traffic, record = evaluate_placement(statistics, topology, one), one.objective
        assert record is not None
        assert traffic.cost == pytest.approx(record.cost)
        assert record.lower_bound <= record.cost
        costs.append(traffic.cost)
    assert costs[-1] == 0, "every rank holds every expert"
    if solver != "packing":
        assert costs == sorted(costs, reverse=True)
        assert costs[1] < costs[0]


def test_a_copy_goes_where_it_saves_most_of_home_return() -> None:
    """Against trying every single copy in the one spare slot."""
    topology = Topology.hops(2, 2)
    statistics = RoutingStatistics.collect(skewed_trace(1_500, seed=3), 4)
    ranks = contiguous_ranks(4, 8, 4)
    filled = replicate(statistics, topology, "home", ranks, 3)
    base = ranks[:, :, None] == np.arange(4)
    for layer in range(4):
        costs = {}
        for expert in range(8):
            for rank in np.flatnonzero(~base[layer, expert]):
                tried = base.copy()
                tried[layer, expert, rank] = True
                costs[expert, int(rank)] = replicated_moves(statistics, topology, tried, "home")[0][:, layer]
        prices = {copy: (moves * topology.cost).sum() for copy, moves in costs.items()}
        assert filled[layer][min(prices, key=lambda copy: prices[copy])]
    bound = replicated_home_bound(statistics, topology, 3)
    assert 0 < bound <= (replicated_moves(statistics, topology, filled, "home")[0] * topology.cost).sum()
    for seed in range(10):
        tried = random_holders(3, seed)
        assert bound <= (replicated_moves(statistics, topology, tried, "home")[0] * topology.cost).sum()
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


def test_even_loads_leave_packing_nothing_to_do() -> None:
    ids = np.tile(np.arange(8)[:, None, None], (10, 3, 1))
    statistics = RoutingStatistics.collect(trace(ids, ids[:, 0, 0] // 2, 8, 4), 4)
    packed = solve(statistics, Topology.hops(2, 2), objective="coherent", solver="packing")
    assert packed.rank_experts == Placement.contiguous(3, 8, 2, 2).rank_experts


@pytest.mark.parametrize(("slots", "line"), [(1, "1 slots"), (9, "9 slots"), (0, "0 slots"), (-2, "-2 slots")])
def test_slots_that_hold_too_few_or_too_many_are_refused(slots: int, line: str) -> None:
    statistics = RoutingStatistics.collect(skewed_trace(50, seed=0), 4)
    with pytest.raises(ValueError, match=rf"slots: {line} a rank are not between 2, .* and 8, .*; choose from 2 to 8"):
        solve(statistics, Topology.hops(2, 2), objective="home", slots=slots)


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
