"""One copy of a token for each rank that holds any of its experts; and the copies of coherent dispatch."""

from itertools import permutations, product

import numpy as np
import pytest

from moe.placement.cost.evaluation import evaluate
from moe.placement.cost.objective import coherent_copies, coherent_cost, copies_cost, home_cost, price
from moe.placement.counts import RoutingStatistics
from moe.placement.ranks import contiguous_ranks
from moe.placement.solver.solve import solve
from moe.placement.solver.swaps import layer_problems
from moe.placement.topology import Topology
from moe.routing_trace import RoutingTrace
from tests.each import each
from tests.moe.exhaustive import random_ranks
from tests.moe.traces import coherent_walk, dropping_trace, markov_trace, trace


def uneven_cost(num_ranks: int, seed: int) -> np.ndarray:
    cost = np.random.default_rng(seed).integers(1, 20, size=(num_ranks, num_ranks)).astype(float)
    np.fill_diagonal(cost, 0)
    return cost


def copies_walk(routing: RoutingTrace, expert_ranks: np.ndarray, cost: np.ndarray) -> float:
    total = 0.0
    for home, layers in zip(routing.source_rank % len(cost), routing.expert_ids.tolist(), strict=True):
        for layer, choices in enumerate(layers):
            for rank in {int(expert_ranks[layer, expert]) for expert in choices if expert >= 0}:
                total += float(cost[home, rank] + cost[rank, home])
    return total


def grouped_trace(num_experts: int, num_groups: int, top_k: int, tokens: int, *, seed: int, world: int) -> RoutingTrace:
    """Three of four tokens choose within one of several hidden groups of experts, another grouping in each layer."""
    draw = np.random.default_rng(seed)
    ids = np.empty((tokens, 2, top_k), int)
    for layer in range(2):
        groups = draw.permutation(num_experts).reshape(num_groups, -1)
        for token in range(tokens):
            pool = groups[draw.integers(num_groups)] if draw.random() < 0.75 else np.arange(num_experts)
            ids[token, layer] = draw.permutation(pool)[:top_k]
    return trace(ids, draw.integers(world, size=tokens), num_experts, world)


@each("drop, top_k", product([0.0, 0.25, 0.9], [1, 2, 4]))
def test_counts_price_exactly_what_a_walk_over_the_tokens_prices(top_k: int, drop: float) -> None:
    routing = dropping_trace(8, 4, top_k, 250, seed=3, world_size=8, drop=drop)
    statistics = RoutingStatistics.collect(routing, 4)
    for seed, cost in enumerate((Topology.hops(2, 2).cost, uneven_cost(4, 1))):
        ranks = random_ranks(4, 8, 4, seed)
        assert copies_cost(statistics, ranks, cost).sum() == copies_walk(routing, ranks, cost)
        copies = price(coherent_copies(statistics, ranks, 4), cost)
        both, anchors = (coherent_walk(routing, ranks, cost, copies=copies)[0] for copies in (True, False))
        assert copies.sum() == both - anchors
        assert coherent_cost(statistics, ranks, cost).sum() == both


def test_one_choice_or_one_expert_a_rank_makes_copies_the_home_return_cost() -> None:
    for routing, num_ranks in ((markov_trace(8, 3, 0.5, 300, seed=0, world_size=4), 4),
                               (dropping_trace(4, 3, 2, 300, seed=0, world_size=4, drop=0.1), 4)):  # fmt: skip
        statistics = RoutingStatistics.collect(routing, num_ranks)
        ranks = random_ranks(3, statistics.num_experts, num_ranks, 0)
        cost = uneven_cost(num_ranks, 0)
        np.testing.assert_array_equal(copies_cost(statistics, ranks, cost), home_cost(statistics, ranks, cost))
        best = solve(statistics, Topology(2, 2, cost, "units"), objective="copies").objective
        exact = solve(statistics, Topology(2, 2, cost, "units"), objective="home").objective
        assert best is not None
        assert exact is not None
        assert best.lower_bound <= exact.cost * (1 + 1e-12)
        if statistics.coactivation.any():
            assert best.cost == pytest.approx(exact.cost)
            assert best.gap == pytest.approx(0, abs=1e-12)


@each("topology, top_k", product([Topology.hops(2, 2), Topology(2, 2, uneven_cost(4, 7), "units")], [2, 3]))
def test_swaps_and_bound_enclose_the_optimum_found_by_trying_all(top_k: int, topology: Topology) -> None:
    statistics = RoutingStatistics.collect(dropping_trace(8, 1, top_k, 300, seed=top_k, world_size=4, drop=0.05), 4)
    best = min(copies_cost(statistics, np.array([ranks]), topology.cost).sum() for ranks in permutations_of_slots(8, 4))
    record = solve(statistics, topology, objective="copies").objective
    assert record is not None
    assert 0 < record.lower_bound * 300 <= best * (1 + 1e-9)
    assert best <= record.cost * 300 * (1 + 1e-9) <= best * 1.02


def permutations_of_slots(num_experts: int, num_ranks: int) -> list[tuple[int, ...]]:
    """All balanced assignments of 8 experts to 4 ranks, 2520 of them."""
    found: list[tuple[int, ...]] = [()]
    for _ in range(num_experts):
        found = [
            (*ranks, rank) for ranks in found for rank in range(num_ranks)
            if ranks.count(rank) < num_experts // num_ranks
        ]  # fmt: skip
    return found


def test_experts_that_are_chosen_together_are_put_together_on_tokens_not_seen() -> None:
    topology = Topology.hops(2, 2)
    known = grouped_trace(16, 4, 3, 1_500, seed=0, world=4)
    half = len(known.expert_ids) // 2
    first, second = (
        RoutingStatistics.collect(trace(known.expert_ids[part], known.source_rank[part], 16, 4), 4)
        for part in (slice(half), slice(half, None))
    )
    placed = solve(first, topology, objective="copies").expert_ranks()
    before, after = (copies_cost(second, ranks, topology.cost).sum() for ranks in (contiguous_ranks(2, 16, 4), placed))
    assert after < 0.75 * before
    moves = [evaluate(second, topology, r, "copies").moves_by_link.sum() for r in (contiguous_ranks(2, 16, 4), placed)]
    assert moves[1] < 0.8 * moves[0]


def test_exchanges_never_end_above_their_starts_and_the_price_is_that_of_the_counts() -> None:
    statistics = RoutingStatistics.collect(dropping_trace(8, 1, 3, 400, seed=1, world_size=4, drop=0.2), 4)
    topology = Topology(2, 2, uneven_cost(4, 2), "units")
    (problem,) = layer_problems(statistics, topology, "copies", None)
    best = min(copies_cost(statistics, np.array([r]), topology.cost).sum() for r in permutations_of_slots(8, 4))
    for seed in range(5):
        start = random_ranks(1, 8, 4, seed)[0]
        settled, end = problem.settled(start), problem.search([start], seed)
        assert problem.price(end) == copies_cost(statistics, end[None], topology.cost).sum()
        assert problem.price(end) <= problem.price(settled) <= problem.price(start)
        assert best <= problem.price(end) <= best * 1.02
        assert np.bincount(end).tolist() == [2, 2, 2, 2]
        for order in permutations(range(4)):
            assert problem.price(np.array(order)[start]) >= problem.price(settled) * (1 - 1e-9)


def test_what_the_counts_do_not_hold_is_asked_for() -> None:
    routing = dropping_trace(8, 3, 2, 100, seed=0, world_size=4, drop=0.0)
    statistics = RoutingStatistics.collect(routing, 4)
    ranks = contiguous_ranks(3, 8, 4)
    merged = RoutingStatistics.from_vector(statistics.to_vector(), 3, 8, 4)
    with pytest.raises(ValueError, match="choice_sets: the counts lack the experts chosen together; count a"):
        copies_cost(merged, ranks, Topology.hops(2, 2).cost)
    with pytest.raises(ValueError, match="visits: the counts lack the sets of choices; count a"):
        coherent_copies(merged, ranks, 4)
    with pytest.raises(ValueError, match="source_rank: "):
        copies_cost(RoutingStatistics.collect(routing, 8), contiguous_ranks(3, 8, 8), Topology.hops(2, 4).cost)
