from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from moe.placement.cost.evaluation import evaluate
from moe.placement.cost.objective import coherent_cost, home_cost
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.solver.solve import choose_solver, solve
from moe.placement.topology import Topology
from tests.each import each
from tests.moe.exhaustive import random_ranks
from tests.moe.traces import coherent_walk, dropping_trace, home_walk, markov_trace


@each("drop, top_k", product([0.0, 0.25, 0.9], [1, 3]))
def test_counts_price_exactly_what_a_walk_over_the_tokens_prices(top_k: int, drop: float) -> None:
    routing = dropping_trace(8, 5, top_k, 250, seed=3, world_size=8, drop=drop)
    statistics = RoutingStatistics.collect(routing, 4)
    uneven = np.random.default_rng(0).integers(1, 50, size=(4, 4)).astype(float)
    np.fill_diagonal(uneven, 0)
    for seed, cost in enumerate((Topology.hops(2, 2).cost, uneven)):
        ranks = random_ranks(5, 8, 4, seed)
        walked, skipped = coherent_walk(routing, ranks, cost, copies=True)
        assert coherent_cost(statistics, ranks, cost).sum() == walked
        anchors_alone = replace(statistics, visits=None)
        assert coherent_cost(anchors_alone, ranks, cost).sum() == coherent_walk(routing, ranks, cost)[0]
        assert statistics.skipped == skipped
        assert home_cost(statistics, ranks, cost).sum() == home_walk(routing, ranks, cost)


def test_a_move_is_priced_under_the_layer_where_it_arrives() -> None:
    routing = dropping_trace(4, 3, 1, 60, seed=0, world_size=1, drop=0.0)
    statistics = RoutingStatistics.collect(routing, 2)
    ranks = np.array([[0, 0, 1, 1]] * 3)
    ranks[2] = [0, 1, 0, 1]
    cost = Topology.hops(1, 2).cost
    by_layer = coherent_cost(statistics, ranks, cost)
    assert by_layer[0] == 0
    anchors = routing.anchors()
    for layer in (1, 2):
        moved = ranks[layer - 1][anchors[:, layer - 1]] != ranks[layer][anchors[:, layer]]
        assert by_layer[layer] == moved.sum()


def test_affinity_placement_changes_coherent_traffic_but_not_home_traffic() -> None:
    """Homes drawn apart from the routes: the law that every report states."""
    topology = Topology.hops(2, 4)
    statistics = RoutingStatistics.collect(markov_trace(16, 12, 0.9, 20_000, seed=0, world_size=8), 8)
    placement = solve(statistics, topology, objective="coherent")
    placed = placement.expert_ranks()
    contiguous = np.tile(np.arange(16) // 2, (12, 1))
    home_before, home_after = (evaluate(statistics, topology, r, "home").cross_rank for r in (contiguous, placed))
    assert home_before == pytest.approx(7 / 8, abs=0.003)
    assert home_after == pytest.approx(7 / 8, abs=0.003)
    coherent_before, coherent_after = (
        evaluate(statistics, topology, r, "coherent").cross_rank for r in (contiguous, placed)
    )
    assert coherent_before == pytest.approx(7 / 8, abs=0.05)
    assert coherent_after < 0.5


def test_an_evaluation_agrees_with_the_tokens() -> None:
    routing = dropping_trace(8, 4, 2, 200, seed=5, world_size=4, drop=0.2)
    topology = Topology.hops(2, 2)
    statistics = RoutingStatistics.collect(routing, 4)
    ranks = random_ranks(4, 8, 4, 1)
    traffic = evaluate(statistics, topology, ranks, "coherent")
    sent = traffic.moves.sum()
    assert traffic.cost == pytest.approx(coherent_walk(routing, ranks, topology.cost, copies=True)[0] / 200)
    assert traffic.cross_rank == coherent_walk(routing, ranks, topology.off_rank, copies=True)[0] / sent
    assert traffic.cross_node == coherent_walk(routing, ranks, topology.off_node, copies=True)[0] / sent
    kept = routing.expert_ids[:, 2].ravel()
    loads = np.bincount(ranks[2][kept[kept >= 0]], minlength=4)
    assert traffic.rank_loads[2].tolist() == loads.tolist()
    assert traffic.imbalance[2] == pytest.approx(loads.max() / loads.mean())


@each("dispatch", ["coherent", "home", "copies"])
def test_moves_by_link_add_up_and_repeat_the_shares(dispatch: Dispatch) -> None:
    topology = Topology.hops(2, 2)
    statistics = RoutingStatistics.collect(dropping_trace(8, 4, 1, 300, seed=6, world_size=4, drop=0.1), 4)
    traffic = evaluate(statistics, topology, random_ranks(4, 8, 4, 2), dispatch)
    on_rank, on_node, off_node = traffic.moves_by_link.sum(axis=0)
    total = on_rank + on_node + off_node
    assert total * 300 == pytest.approx(statistics.moves if dispatch == "coherent" else 2 * statistics.loads.sum())
    assert (on_node + off_node) / total == pytest.approx(traffic.cross_rank)
    assert off_node / total == pytest.approx(traffic.cross_node)
    assert on_node + 2 * off_node == pytest.approx(traffic.cost)


def test_auto_is_exact_where_that_is_quick_and_searches_elsewhere() -> None:
    few, many = (RoutingStatistics.collect(markov_trace(e, 3, 0.5, 50, seed=0, world_size=4), 4) for e in (8, 16))
    dropped = RoutingStatistics.collect(dropping_trace(8, 4, 1, 50, seed=0, world_size=4, drop=0.5), 4)
    flat, nodes = Topology.hops(1, 4), Topology.hops(2, 2)
    assert choose_solver(few, nodes, "coherent") == choose_solver(few, flat, "coherent") == "viterbi"
    assert choose_solver(many, nodes, "coherent") == choose_solver(dropped, nodes, "coherent") == "pair"
    assert choose_solver(many, flat, "coherent") == "pair"
    chosen = [
        choose_solver(counts, flat, mode) for mode in ("home", "copies", "hierarchical") for counts in (few, many)
    ]
    assert chosen == ["assignment"] * 2 + ["enumeration", "swaps"] * 2


def test_home_objective_needs_to_know_the_homes() -> None:
    statistics = RoutingStatistics.collect(markov_trace(8, 2, 0.5, 10, seed=0, world_size=2), 4)
    with pytest.raises(ValueError, match=r"source_rank: .* choose nodes \* ranks_per_node that divides"):
        home_cost(statistics, np.zeros((2, 8), int), Topology.hops(2, 2).cost)
