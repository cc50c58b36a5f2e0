from itertools import product

import numpy as np
import pytest

from moe.placement.cost.evaluation import evaluate
from moe.placement.cost.objective import OBJECTIVES, coherent_cost
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch, Placement
from moe.placement.ranks import contiguous_ranks
from moe.placement.solver.descent import Descent
from moe.placement.solver.solve import SOLVERS, solve
from moe.placement.topology import Topology
from tests.each import each
from tests.moe.exhaustive import is_balanced, optimum, uneven_topology
from tests.moe.traces import coherent_walk, dropping_trace, markov_trace, trace

EVERY_SOLVER = [
    (objective, name) for objective, solvers in SOLVERS.items() for name in (*solvers, "contiguous", "auto")
]


@each("objective, solver", EVERY_SOLVER)
@pytest.mark.parametrize(
    "topology",
    [
        pytest.param(Topology.hops(1, 4), id="1x4"),
        pytest.param(Topology.hops(2, 2), marks=pytest.mark.slow, id="2x2"),  # a special case of the uneven one
        pytest.param(uneven_topology(2, 2, 0), id="uneven"),
        pytest.param(Topology.hops(1, 1), id="1x1"),
    ],
)
@pytest.mark.parametrize("drop", [pytest.param(0.0, marks=pytest.mark.slow), 0.4])
def test_every_solver_keeps_the_contract(objective: Dispatch, solver: str, topology: Topology, drop: float) -> None:
    experts, layers = 8, 5
    routing = dropping_trace(experts, layers, 2, 400, seed=4, world_size=4, drop=drop)
    statistics = RoutingStatistics.collect(routing, topology.num_ranks)
    one, same = (solve(statistics, topology, objective=objective, solver=solver, seed=7) for _ in range(2))
    assert one == same
    ranks = one.expert_ranks()
    assert is_balanced(ranks, topology.num_ranks)
    record = one.objective
    assert record is not None
    price = OBJECTIVES[objective]
    contiguous = contiguous_ranks(layers, experts, topology.num_ranks)
    assert record.cost == price(statistics, ranks, topology.cost, topology.num_nodes).sum() / 400
    assert record.contiguous_cost == price(statistics, contiguous, topology.cost, topology.num_nodes).sum() / 400
    assert 0 <= record.lower_bound <= record.cost <= record.contiguous_cost
    assert record.gap == pytest.approx((record.cost - record.lower_bound) / record.cost if record.cost else 0)


@each("seed, topology", product(range(6), [Topology.hops(2, 1), uneven_topology(1, 2, 1)]))
def test_sweep_and_bound_enclose_the_optimum_found_by_trying_all(seed: int, topology: Topology) -> None:
    statistics = RoutingStatistics.collect(markov_trace(4, 4, 0.8, 300, seed=seed), 2)
    best = optimum("coherent", statistics, topology)
    record = solve(statistics, topology, objective="coherent", solver="sweep", seed=seed).objective
    assert record is not None
    assert record.lower_bound * 300 <= best * (1 + 1e-9)
    assert best <= record.cost * 300 <= best * 1.15


@each("topology", [Topology.hops(2, 1), uneven_topology(1, 2, 3)])
def test_assignment_is_the_optimum_of_home_return(topology: Topology) -> None:
    for seed in range(3):
        statistics = RoutingStatistics.collect(dropping_trace(4, 2, 2, 80, seed=seed, world_size=4, drop=0.1), 2)
        record = solve(statistics, topology, objective="home").objective
        assert record is not None
        assert record.cost * 80 == pytest.approx(optimum("home", statistics, topology))
        assert record.gap == 0


@each("affinity", [0.0, 0.5, 0.9])
def test_one_expert_a_rank_and_one_level_of_cost_is_solved_to_the_bound(affinity: float) -> None:
    topology = Topology.hops(1, 16)
    for seed in range(3):
        statistics = RoutingStatistics.collect(markov_trace(16, 12, affinity, 5_000, seed=seed), 16)
        record = solve(statistics, topology, objective="coherent", solver="sweep", seed=seed).objective
        assert record is not None
        assert record.cost == pytest.approx(record.lower_bound, rel=1e-12)
        chain = Descent(statistics.transitions, statistics.jumps, topology.cost).chain(np.tile(np.arange(16), (12, 1)))
        assert coherent_cost(statistics, chain, topology.cost).sum() / 5_000 == pytest.approx(record.lower_bound)


def test_without_affinity_a_placement_does_not_help_on_other_tokens() -> None:
    topology = Topology.hops(2, 4)
    placement = solve(
        RoutingStatistics.collect(markov_trace(16, 8, 0.0, 20_000, seed=0), 8), topology, objective="coherent"
    )
    other = RoutingStatistics.collect(markov_trace(16, 8, 0.0, 20_000, seed=0, tokens_seed=1), 8)
    assert evaluate(other, topology, placement.expert_ranks(), "coherent").cross_rank == pytest.approx(7 / 8, abs=0.005)


@each(
    "experts, layers, nodes, ranks, solver",
    [
        (8, 12, 2, 2, "auto"),
        (8, 12, 2, 4, "pair"),
        (16, 12, 2, 2, "sweep"),
        (16, 24, 2, 4, "sweep"),
        (16, 24, 4, 4, "sweep"),
        (32, 12, 2, 4, "sweep"),
        (64, 12, 2, 4, "sweep"),
        (64, 12, 4, 4, "sweep"),
        (64, 24, 4, 4, "sweep"),
    ],
)
def test_affinity_is_turned_into_fewer_moves_on_other_tokens(
    experts: int, layers: int, nodes: int, ranks: int, solver: str
) -> None:
    topology = Topology.hops(nodes, ranks)
    known = RoutingStatistics.collect(markov_trace(experts, layers, 0.8, 8_000, seed=1), nodes * ranks)
    other = RoutingStatistics.collect(markov_trace(experts, layers, 0.8, 8_000, seed=1, tokens_seed=1), nodes * ranks)
    placed = solve(known, topology, objective="coherent", solver=solver).expert_ranks()
    contiguous = contiguous_ranks(layers, experts, nodes * ranks)
    before, after = (evaluate(other, topology, r, "coherent").cross_rank for r in (contiguous, placed))
    assert after <= 0.55 * before


def test_a_sweep_never_raises_the_cost_and_ends_where_no_layer_gains() -> None:
    topology = uneven_topology(2, 2, 5)
    routing = dropping_trace(8, 6, 1, 500, seed=0, world_size=1, drop=0.2)
    statistics = RoutingStatistics.collect(routing, 4)
    descent = Descent(statistics.transitions, statistics.jumps, topology.cost)
    draw = np.random.default_rng(0)
    for _ in range(5):
        start = np.stack([draw.permutation(np.arange(8) // 2) for _ in range(6)])
        end = descent.sweep(start)
        cost = coherent_walk(routing, end, topology.cost)[0]
        assert cost <= coherent_walk(routing, start, topology.cost)[0]
        np.testing.assert_array_equal(descent.sweep(end), end)
        for layer, one, two in product(range(6), range(8), range(8)):
            swapped = end.copy()
            swapped[layer, [one, two]] = end[layer, [two, one]]
            assert coherent_cost(statistics, swapped, topology.cost).sum() >= cost


def test_a_placement_that_cannot_gain_is_the_contiguous_one() -> None:
    ids = np.tile(np.arange(8)[:, None, None], (10, 4, 1))
    statistics = RoutingStatistics.collect(trace(ids, ids[:, 0, 0] // 2, 8, 4), 4)
    for objective in OBJECTIVES:
        placement = solve(statistics, Topology.hops(2, 2), objective=objective)
        assert placement.rank_experts == Placement.contiguous(4, 8, 2, 2).rank_experts
        assert placement.objective is not None
        assert placement.objective.cost == placement.objective.gap == 0


@each("ranks, objective, message", [(4, "speed", "objective: unknown"), (3, "home", "8 experts do not divide among 3")])
def test_what_cannot_be_solved_is_refused(ranks: int, objective: Dispatch, message: str) -> None:
    statistics = RoutingStatistics.collect(markov_trace(8, 2, 0.5, 10, seed=0), ranks)
    with pytest.raises(ValueError, match=message):
        solve(statistics, Topology.hops(1, ranks), objective=objective)
