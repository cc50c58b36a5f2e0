"""Coherent solvers under a cap on the busiest rank, with moves and copies priced together."""

from itertools import product

import numpy as np
import pytest

from moe.placement.bound.coherent import best_bound
from moe.placement.cost.objective import coherent_cost, coherent_moves, coherent_traffic
from moe.placement.counts import RoutingStatistics
from moe.placement.ranks import contiguous_ranks
from moe.placement.solver.coherent import solve_pair, solve_sweep
from moe.placement.solver.descent import Annealing
from moe.placement.solver.enumeration import cheapest_path, solve_viterbi
from moe.placement.solver.load_limits import keeps, start_within
from moe.placement.solver.protocol import PlacementSolver
from moe.placement.topology import Topology
from moe.routing_trace import RoutingTrace
from tests.each import each
from tests.moe.exhaustive import balanced_layers, is_balanced, random_ranks, uneven_topology
from tests.moe.traces import coherent_walk, trace
from tests.oracle.integer_programme import solve_milp
from tests.pairwise import pairwise_cover

SEARCHES: list[PlacementSolver] = [solve_sweep, solve_pair]


def affine_trace(experts: int, layers: int, top_k: int, tokens: int, *, seed: int, drop: float = 0.0) -> RoutingTrace:
    """Tokens of hidden topics, some more frequent than others, whose experts differ from layer to layer."""
    draw = np.random.default_rng(seed)
    topics = draw.choice(experts // 2, size=tokens, p=draw.dirichlet(np.full(experts // 2, 3.0)))
    liked = draw.gumbel(size=(layers, experts // 2, experts)) * 2.5
    order = (-liked[:, topics].swapaxes(0, 1) - draw.gumbel(size=(tokens, layers, experts))).argsort(axis=2)
    ids = np.where(draw.random((tokens, layers, top_k)) < drop, -1, order[:, :, :top_k])
    return trace(ids, draw.integers(2, size=tokens), experts, 2)


def caps(statistics: RoutingStatistics, num_ranks: int, room: float) -> np.ndarray:
    """Limits a little above the least that any balanced assignment of each layer needs."""
    layers = np.array(balanced_layers(statistics.num_experts, num_ranks))
    held = np.eye(num_ranks)[layers]
    least = [np.tensordot(held, loads, axes=(1, 0)).max(axis=1).min() for loads in statistics.loads]
    return np.array(least) * room


def busiest(statistics: RoutingStatistics, ranks: np.ndarray, num_ranks: int) -> np.ndarray:
    return np.array(
        [
            np.bincount(layer, weights=loads, minlength=num_ranks).max()
            for layer, loads in zip(ranks, statistics.loads, strict=True)
        ]
    )


def least_cost(statistics: RoutingStatistics, topology: Topology, limits: np.ndarray | None) -> float:
    """Least cost of all balanced assignments within the limits, by trying all."""
    layers = [np.array(layer) for layer in balanced_layers(statistics.num_experts, topology.num_ranks)]
    allowed = [
        [layer for layer in layers if limits is None or keeps(layer, loads, limits[number], topology.num_ranks)]
        for number, loads in enumerate(statistics.loads)
    ]
    return min(coherent_cost(statistics, np.array(ranks), topology.cost).sum() for ranks in product(*allowed))


@each(
    "top_k, topology, capped",
    pairwise_cover([1, 2, 3], [Topology.hops(1, 2), uneven_topology(1, 2, 1), uneven_topology(2, 1, 2)], [False, True]),
)
def test_viterbi_and_the_programme_have_the_optimum_found_by_trying_all(
    top_k: int, topology: Topology, capped: bool
) -> None:
    statistics = RoutingStatistics.collect(affine_trace(4, 4, top_k, 150, seed=top_k), topology.num_ranks)
    limits = caps(statistics, topology.num_ranks, 1.05) if capped else None
    best = least_cost(statistics, topology, limits)
    for solver in (solve_viterbi, solve_milp):
        found = solver(statistics, topology, seed=0, limits=limits)
        assert is_balanced(found.expert_ranks, topology.num_ranks)
        assert coherent_cost(statistics, found.expert_ranks, topology.cost).sum() == best
        assert best * 0.999 <= found.lower_bound <= best * (1 + 1e-12)
        assert limits is None or (busiest(statistics, found.expert_ranks, topology.num_ranks) <= limits).all()


EVERY = [
    (seed, topology, *case)
    for seed, topology in enumerate([Topology.hops(1, 4), Topology.hops(2, 2), uneven_topology(2, 2, 0)])
    for case in [(2, 0.4), (1, 0.0), (1, 0.4), (2, 0.0)]
]


@pytest.mark.parametrize(
    ("seed", "topology", "top_k", "drop"),
    [EVERY[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in EVERY[1:])],
)
def test_every_search_keeps_the_limits_always(seed: int, topology: Topology, top_k: int, drop: float) -> None:
    statistics = RoutingStatistics.collect(affine_trace(8, 5, top_k, 300, seed=seed, drop=drop), 4)
    for room in (1.0, 1.1):
        limits = caps(statistics, 4, room)
        start = start_within(statistics.loads, 4, limits)
        costs = [coherent_cost(statistics, start, topology.cost).sum()]
        for solver in (*SEARCHES, solve_viterbi):
            one, same = (solver(statistics, topology, seed=3, limits=limits) for _ in range(2))
            np.testing.assert_array_equal(one.expert_ranks, same.expert_ranks)
            assert is_balanced(one.expert_ranks, 4)
            assert (busiest(statistics, one.expert_ranks, 4) <= limits).all()
            costs.append(coherent_cost(statistics, one.expert_ranks, topology.cost).sum())
            assert 0 <= one.lower_bound <= min(costs[1:]) * (1 + 1e-12)
        assert max(costs) == costs[0]


@pytest.mark.parametrize(
    ("top_k", "capped"),
    [pytest.param(*case, marks=pytest.mark.slow) for case in [(1, True), (1, False), (2, False), (2, True)]],
)
def test_pair_comes_within_one_per_cent_of_the_optimum_on_average_and_two_at_worst(top_k: int, capped: bool) -> None:
    topology = Topology.hops(1, 4)
    gaps = []
    for seed in range(30):
        statistics = RoutingStatistics.collect(affine_trace(8, 10, top_k, 400, seed=seed), 4)
        limits = caps(statistics, 4, 1.1) if capped else None
        found = solve_pair(statistics, topology, seed=seed, limits=limits)
        best = cheapest_path(statistics, topology.cost, limits)[1]
        gaps.append(coherent_cost(statistics, found.expert_ranks, topology.cost).sum() / best - 1)
        assert found.lower_bound <= best
    assert min(gaps) >= -1e-12
    assert np.mean(gaps) <= 0.01
    assert max(gaps) <= 0.02


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@each("topology, top_k", [(Topology.hops(1, 2), 4), (Topology.hops(2, 2), 2), (uneven_topology(1, 4, 3), 3)])
def test_the_bound_is_below_the_exact_optimum_with_and_without_limits(
    topology: Topology, top_k: int, seed: int
) -> None:
    statistics = RoutingStatistics.collect(affine_trace(8, 4, top_k, 200, seed=seed), topology.num_ranks)
    best = cheapest_path(statistics, topology.cost)[1]
    for rounds in (1, 6, 30):
        assert 0 <= best_bound(statistics, topology, rounds=rounds) <= best
    limits = caps(statistics, topology.num_ranks, 1.0)
    capped = cheapest_path(statistics, topology.cost, limits)[1]
    assert best <= capped
    for rounds in (1, 6, 30):
        assert 0 <= best_bound(statistics, topology, limits, rounds) <= capped


def test_no_single_exchange_gains_after_a_descent() -> None:
    topology = uneven_topology(2, 2, 4)
    statistics = RoutingStatistics.collect(affine_trace(8, 4, 3, 300, seed=1, drop=0.2), 4)
    limits = caps(statistics, 4, 1.15)
    annealing = Annealing(statistics, topology, limits)
    ranks = annealing.descend(start_within(statistics.loads, 4, limits))
    cost = annealing.cost(ranks)
    for layer, one, two in product(range(4), range(8), range(8)):
        swapped = ranks.copy()
        swapped[layer, [one, two]] = ranks[layer, [two, one]]
        if (busiest(statistics, swapped, 4) <= limits).all():
            assert annealing.cost(swapped) >= cost * (1 - 1e-9)


def test_counts_without_visits_price_first_choices_alone() -> None:
    routing = affine_trace(8, 4, 2, 200, seed=2)
    statistics = RoutingStatistics.collect(routing, 4)
    merged = RoutingStatistics.from_vector(
        statistics.to_vector(), 4, 8, None if statistics.source_counts is None else 4
    )
    ranks = random_ranks(4, 8, 4, 0)
    assert coherent_traffic(statistics, ranks, 4).shape == (2, 4, 4, 4)
    np.testing.assert_array_equal(coherent_traffic(merged, ranks, 4), coherent_moves(statistics, ranks, 4))
    found = solve_pair(merged, Topology.hops(1, 4), seed=0)
    assert found.lower_bound <= coherent_walk(routing, found.expert_ranks, Topology.hops(1, 4).cost)[0]


def test_a_start_keeps_limits_that_only_a_search_meets_and_refuses_others() -> None:
    loads = np.array([[10, 9, 8, 7, 6, 5, 4, 3], [50, 1, 1, 1, 1, 1, 1, 1]])
    limits = np.array([13.0, 51.0])
    ranks = start_within(loads, 4, limits)
    assert is_balanced(ranks, 4)
    assert all(keeps(layer, row, limit, 4) for layer, row, limit in zip(ranks, loads, limits, strict=True))
    np.testing.assert_array_equal(start_within(loads, 4, None), contiguous_ranks(2, 8, 4))
    with pytest.raises(ValueError, match=r"limits: .* layer 1 within 50 choices; give a higher limit"):
        start_within(loads, 4, np.array([13.0, 50.0]))


@each("solver", [solve_viterbi])
def test_limits_that_no_assignment_keeps_are_refused(solver: PlacementSolver) -> None:
    statistics = RoutingStatistics.collect(affine_trace(8, 3, 2, 100, seed=0), 4)
    limits = caps(statistics, 4, 1.0)
    limits[1] -= 1
    with pytest.raises(ValueError, match="limits: no balanced assignment keeps every rank of layer 1 within"):
        solver(statistics, Topology.hops(1, 4), seed=0, limits=limits)
