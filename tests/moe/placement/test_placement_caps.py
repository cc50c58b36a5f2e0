"""Caps on the load of the busiest rank: kept by every solver, refused with the least possible one, and their price."""

import re
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest

from moe.placement.cost.evaluation import evaluate
from moe.placement.cost.objective import OBJECTIVES
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch, Placement
from moe.placement.solver.assignment import solve_assignment
from moe.placement.solver.enumeration import balanced_assignments, solve_enumeration
from moe.placement.solver.load_limits import least_load, load_limits
from moe.placement.solver.solve import SOLVERS, solve
from moe.placement.solver.swaps import search_layers
from moe.placement.solver.tradeoff import trade_off, tradeoff_points
from moe.placement.topology import Topology
from tests.each import each
from tests.moe.exhaustive import balanced_layers, uneven_topology
from tests.moe.traces import trace

RETURNING: list[Dispatch] = ["home", "copies", "hierarchical"]
STATES = balanced_assignments(8, 4)


def clustered(
    experts: int, layers: int, tokens: int, *, seed: int, top_k: int = 2, ranks: int = 4
) -> RoutingStatistics:
    """Counts of tokens that prefer popular experts, those of one hidden group, and those of their rank."""
    draw = np.random.default_rng(seed)
    source, group = draw.integers(ranks, size=tokens), draw.integers(ranks, size=tokens)
    ids = np.empty((tokens, layers, top_k), int)
    for layer in range(layers):
        popular = draw.normal(0, 0.25, experts)
        of_group, of_rank = draw.permuted(np.tile(np.arange(experts) % ranks, (2, 1)), axis=1)
        wish = popular + 1.5 * (of_group == group[:, None]) + 0.5 * (of_rank == source[:, None])
        ids[:, layer] = np.argsort(-wish - draw.gumbel(size=(tokens, experts)), axis=1)[:, :top_k]
    return RoutingStatistics.collect(trace(ids, source, experts, ranks), ranks)


def loads_of(statistics: RoutingStatistics, ranks: np.ndarray, num_ranks: int) -> np.ndarray:
    return np.array(
        [np.bincount(r, weights=w, minlength=num_ranks).max() for r, w in zip(ranks, statistics.loads, strict=True)]
    )


def test_enumeration_lists_every_balanced_assignment_once() -> None:
    assert len(STATES) == len(np.unique(STATES, axis=0)) == 2520
    assert all((np.bincount(state) == 2).all() for state in STATES)
    np.testing.assert_array_equal(STATES[0], np.arange(8) // 2)


@each("dispatch", RETURNING)
def test_enumeration_prices_as_the_objective_does_and_takes_the_least_within_the_limits(dispatch: Dispatch) -> None:
    statistics, topology = clustered(8, 2, 150, seed=0, top_k=3), uneven_topology(2, 2, 3)
    every = np.stack(
        [OBJECTIVES[dispatch](statistics, np.tile(state, (2, 1)), topology.cost, 2) for state in STATES], axis=1
    )
    over = np.stack([loads_of(statistics, np.tile(state, (2, 1)), 4) for state in STATES], axis=1)
    for cap in (None, 1.1):
        limits = None if cap is None else load_limits(statistics, 4, cap)
        found = solve_enumeration(dispatch, statistics, topology, seed=0, limits=limits)
        allowed = every if limits is None else np.where(over <= limits[:, None], every, np.inf)
        assert found.lower_bound == pytest.approx(allowed.min(axis=1).sum())
        cost = OBJECTIVES[dispatch](statistics, found.expert_ranks, topology.cost, 2).sum()
        assert cost == pytest.approx(found.lower_bound)


@pytest.mark.parametrize("seeds", [range(10), pytest.param(range(10, 30), marks=pytest.mark.slow)], ids=str)
@each("cap, dispatch", product([None, 1.1], RETURNING))
def test_searches_come_near_the_optimum_of_every_case_and_keep_the_cap(
    dispatch: Dispatch, cap: float | None, seeds: range
) -> None:
    topology, gaps = Topology.hops(2, 2), []
    for seed in seeds:
        statistics = clustered(8, 10, 120, seed=seed)
        limits = None if cap is None else load_limits(statistics, 4, cap, strict=False)
        exact = solve_enumeration(dispatch, statistics, topology, seed=0, limits=limits)
        if dispatch == "home":
            solved = solve_assignment(statistics, topology, seed=seed, limits=limits)
            found, bound = solved.expert_ranks, solved.lower_bound
        else:
            found, bound = search_layers(statistics, topology, dispatch, seed=seed, limits=limits), 0.0
        assert limits is None or (loads_of(statistics, found, 4) <= limits).all()
        cost = OBJECTIVES[dispatch](statistics, found, topology.cost, 2).sum()
        assert bound <= exact.lower_bound * (1 + 1e-9) <= cost * (1 + 2e-9)
        gaps.append(cost / exact.lower_bound - 1)
    assert np.mean(gaps) <= 0.01
    assert np.max(gaps) <= 0.02


@each("objective", ["coherent", *RETURNING])
@each("topology", [Topology.hops(1, 4), uneven_topology(2, 2, 0)], ids=["1x4", "uneven"])
def test_every_solver_keeps_the_cap_and_the_file_says_what_it_reached(objective: Dispatch, topology: Topology) -> None:
    statistics = clustered(8, 3, 300, seed=1)
    for solver in ("auto", "packing", *SOLVERS[objective]):
        placement = solve(statistics, topology, objective=objective, solver=solver, max_load=1.1)
        assert (loads_of(statistics, placement.expert_ranks(), 4) <= load_limits(statistics, 4, 1.1)).all()
        record = Placement.model_validate_json(placement.model_dump_json()).load
        assert record is not None
        reached = loads_of(statistics, placement.expert_ranks(), 4) / (statistics.loads.sum(axis=1) / 4)
        assert record.max_load == 1.1
        assert (record.busiest, record.worst) == pytest.approx((reached.mean(), reached.max()))


def test_a_cap_that_cannot_be_kept_is_refused_with_the_least_that_can() -> None:
    for seed in range(6):
        draw = np.random.default_rng(seed)
        ids = draw.choice(8, size=(200, 3, 1), p=draw.dirichlet(np.full(8, 0.7)))
        statistics = RoutingStatistics.collect(trace(ids, draw.integers(4, size=200), 8, 4), 4)
        tried = np.stack([loads_of(statistics, np.tile(state, (3, 1)), 4) for state in STATES]).min(axis=0)
        for loads, least in zip(statistics.loads, tried, strict=True):
            assert least_load(loads, 4).best == least_load(loads, 4).proven == least
        lowest = float((tried / (statistics.loads.sum(axis=1) / 4)).max())
        with pytest.raises(ValueError, match="max_load: no placement is known") as refused:
            solve(statistics, Topology.hops(1, 4), objective="copies", max_load=max(lowest - 0.01, 1))
        said = re.search(r"the least possible is ([\d.]+), which is certified", str(refused.value))
        assert said is not None
        assert lowest <= float(said[1]) <= lowest + 1e-4
        placement = solve(statistics, Topology.hops(1, 4), objective="copies", max_load=float(said[1]))
        assert placement.load is not None
        assert placement.load.worst <= float(said[1])
        softened = solve(statistics, Topology.hops(1, 4), objective="copies", max_load=1.0, strict=False)
        assert softened.load is not None
        assert softened.load.worst <= lowest + 1e-9


def test_large_layers_say_what_is_found_and_what_is_proven() -> None:
    loads = np.random.default_rng(0).pareto(1.0, 64).astype(int) * 10 + 1
    least = least_load(loads, 8)
    assert loads.max() <= least.proven <= least.best
    assert least.best >= loads.sum() / 8


def test_the_contiguous_placement_is_refused_where_it_breaks_the_cap() -> None:
    ids = np.array([0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7])[:, None, None]
    statistics = RoutingStatistics.collect(trace(ids, np.zeros(12, int), 8, 4), 4)
    with pytest.raises(
        ValueError, match=r"max_load: the contiguous placement loads a rank of layer 0 with 2.0000 times"
    ):
        solve(statistics, Topology.hops(1, 4), objective="home", solver="contiguous", max_load=1.4)
    placed = solve(statistics, Topology.hops(1, 4), objective="home", max_load=1.4)
    assert placed.load is not None
    assert placed.load.worst <= 1.4


@each("dispatch", RETURNING)
def test_what_changes_no_comparison_changes_no_placement(dispatch: Dispatch) -> None:
    statistics, topology = clustered(16, 3, 400, seed=2, top_k=3), uneven_topology(2, 2, 1)
    limits = load_limits(statistics, 4, 1.15, strict=False)
    ranks = search_layers(statistics, topology, dispatch, seed=3, limits=limits)
    doubled = search_layers(statistics + statistics, topology, dispatch, seed=3, limits=2 * limits)
    np.testing.assert_array_equal(ranks, doubled)
    dearer = replace(topology, cost=4 * topology.cost)
    np.testing.assert_array_equal(ranks, search_layers(statistics, dearer, dispatch, seed=3, limits=limits))


@each("objective", ["coherent", *RETURNING])
def test_the_curve_keeps_its_caps_and_never_rises_with_them(objective: Dispatch) -> None:
    statistics, topology = clustered(16, 3, 400, seed=4, top_k=3), Topology.hops(2, 2)
    placement = solve(statistics, topology, objective=objective, max_load=1.15, strict=False)
    curve = trade_off(statistics, topology, placement, seed=0)
    assert [cap for cap, _ in curve] == [None, 1.3, 1.2, 1.15, 1.1, 1.05]
    costs = [traffic.cost for _, traffic in curve]
    assert all(looser <= tighter * 1.02 for looser, tighter in pairwise(costs))
    for cap, traffic in curve:
        if cap is not None:
            limits = load_limits(statistics, 4, cap, strict=False)
            assert (traffic.rank_loads.max(axis=1) <= limits).all()
    own = dict(curve)[1.15]
    np.testing.assert_array_equal(own.expert_ranks, placement.expert_ranks())
    points = tradeoff_points(curve)
    assert [point.max_load for point in points] == [None, 1.3, 1.2, 1.15, 1.1, 1.05]
    assert points[0].cost == pytest.approx(costs[0])


@each("objective", ["coherent", *RETURNING])
def test_the_curve_of_few_assignments_is_exact(objective: Dispatch) -> None:
    statistics, topology = clustered(4, 3, 200, seed=6, top_k=2, ranks=2), uneven_topology(2, 1, 5)
    curve = trade_off(statistics, topology, solve(statistics, topology, objective=objective), seed=0)
    every = [np.array(ranks) for ranks in product(balanced_layers(4, 2), repeat=3)]
    traffic = [evaluate(statistics, topology, ranks, objective) for ranks in every]
    for cap, placed in curve:
        limits = np.full(3, np.inf) if cap is None else load_limits(statistics, 2, cap, strict=False)
        least = min(other.cost for other in traffic if (other.rank_loads.max(axis=1) <= limits).all())
        assert placed.cost == pytest.approx(least, rel=1e-12)
