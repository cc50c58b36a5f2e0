import numpy as np
import pytest
from scipy.optimize import linprog

from moe.placement import counts
from moe.placement.bound import coherent
from moe.placement.bound.coherent import best_bound, degree_bound, eigenvalue_bound, heaviest_pairs, most_staying
from moe.placement.bound.copies import copies_bound, hierarchical_bound
from moe.placement.counts import RoutingStatistics, jump_pairs, layer_blocks, layer_pairs
from moe.placement.solver.enumeration import cheapest_path
from moe.placement.topology import Topology
from tests.each import each
from tests.moe.exhaustive import optimum, random_ranks, uneven_topology
from tests.moe.traces import coherent_walk, dropping_trace, markov_trace

SMALL = [
    (4, 4, Topology.hops(2, 1)),
    (4, 4, uneven_topology(1, 2, 0)),
    (3, 4, uneven_topology(1, 3, 1)),
    (4, 3, uneven_topology(2, 2, 2)),
    (4, 3, Topology.two_level(2, 2, intra=0, inter=1, unit="units")),
    (6, 3, Topology.hops(1, 2)),
    (2, 1, Topology.hops(1, 2)),
    (4, 3, Topology.hops(1, 1)),
]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@each("experts, layers, topology", SMALL)
def test_every_bound_is_below_the_optimum_found_by_trying_all(
    experts: int, layers: int, topology: Topology, seed: int
) -> None:
    routings = [
        markov_trace(experts, layers, 0.9, 200, seed=seed),
        dropping_trace(experts, layers, 1, 200, seed=seed, world_size=1, drop=0.4),
    ]
    for routing in routings:
        statistics = RoutingStatistics.collect(routing, topology.num_ranks)
        best = optimum("coherent", statistics, topology)
        assert 0 <= degree_bound(layer_pairs(statistics), topology.cost) <= best
        assert 0 <= eigenvalue_bound(statistics, topology) <= best
        assert 0 <= best_bound(statistics, topology) <= best


@each(
    "affinity, topology",
    [
        (0.0, Topology.hops(2, 2)),
        (0.5, Topology.hops(1, 4)),
        (0.5, Topology.hops(2, 2)),
        (0.95, uneven_topology(2, 2, 3)),
    ],
)
def test_bounds_are_below_the_optimum_of_viterbi(affinity: float, topology: Topology) -> None:
    statistics = RoutingStatistics.collect(markov_trace(8, 6, affinity, 2_000, seed=4), 4)
    best = cheapest_path(statistics, topology.cost)[1]
    eigen = eigenvalue_bound(statistics, topology)
    assert max(degree_bound(statistics.transitions, topology.cost), eigen) <= best_bound(statistics, topology) <= best
    if affinity < 0.9 and topology.unit == "hops":
        assert eigen > 0.75 * best


def test_a_chain_cut_into_windows_is_bounded_lower_but_soundly(monkeypatch: pytest.MonkeyPatch) -> None:
    topology = Topology.hops(2, 2)
    statistics = RoutingStatistics.collect(markov_trace(8, 7, 0.7, 2_000, seed=0), 4)
    best = cheapest_path(statistics, topology.cost)[1]
    whole = eigenvalue_bound(statistics, topology)
    monkeypatch.setattr(coherent, "_LARGEST", 24)
    cut = eigenvalue_bound(statistics, topology)
    assert 0.9 * whole < cut < whole < best


def test_a_problem_that_is_too_large_gets_no_eigenvalues(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = RoutingStatistics.collect(markov_trace(8, 5, 0.7, 500, seed=0), 4)
    monkeypatch.setattr(coherent, "_OPERATIONS", 1e3)
    assert eigenvalue_bound(statistics, Topology.hops(2, 2)) == 0
    assert best_bound(statistics, Topology.hops(2, 2)) == degree_bound(statistics.transitions, Topology.hops(2, 2).cost)


@each("evaluations", [1, 2, 30])
def test_no_assignment_keeps_more_tokens_than_the_eigenvalues_allow(evaluations: int) -> None:
    for seed in range(3):
        routing = dropping_trace(6, 4, 1, 300, seed=seed, world_size=1, drop=0.3)
        statistics = RoutingStatistics.collect(routing, 3)
        one_way = layer_blocks(statistics, 0, 4).reshape(24, 24)
        bound = most_staying(one_way + one_way.T, 6, 3, evaluations)
        assert bound <= statistics.moves
        stay = [
            statistics.moves - coherent_walk(routing, random_ranks(4, 6, 3, draw), np.ones((3, 3)) - np.eye(3))[0]
            for draw in range(50)
        ]
        assert max(stay) <= bound


@each("affinity", [0.0, 0.6])
def test_one_expert_a_rank_and_one_level_is_bounded_exactly(affinity: float) -> None:
    statistics = RoutingStatistics.collect(markov_trace(4, 4, affinity, 300, seed=1), 4)
    topology = Topology.hops(1, 4)
    best = cheapest_path(statistics, topology.cost)[1]
    assert degree_bound(statistics.transitions, topology.cost) == best_bound(statistics, topology) == best


def test_jumps_are_counted_by_the_layers_that_they_link(monkeypatch: pytest.MonkeyPatch) -> None:
    routing = dropping_trace(4, 6, 1, 300, seed=0, world_size=1, drop=0.4)
    statistics = RoutingStatistics.collect(routing, 2)
    assert layer_pairs(statistics).sum() == statistics.moves == layer_blocks(statistics, 0, 6).sum()
    assert len(jump_pairs(statistics)) == 10
    inside = layer_blocks(statistics, 1, 4)
    from_layer, to_layer = statistics.jumps[:, 0], statistics.jumps[:, 1]
    skipped = statistics.jumps[(from_layer >= 1) & (to_layer < 4), 4].sum()
    assert inside.sum() == statistics.transitions[1:3].sum() + skipped
    monkeypatch.setattr(counts, "_MOST_JUMP_COUNTS", 100)
    assert layer_pairs(statistics).sum() == statistics.transitions.sum()


@each("degree", [1, 2, 3, 6])
def test_heaviest_pairs_bounds_the_linear_programme_closely(degree: int) -> None:
    draw = np.random.default_rng(degree)
    ones = np.kron(np.eye(6), np.ones(6)), np.kron(np.ones(6), np.eye(6))
    for _ in range(5):
        tokens = draw.integers(0, 100, size=(6, 6)) ** 2
        answer = linprog(-tokens.ravel(), A_ub=np.vstack(ones), b_ub=np.full(12, degree), bounds=(0, 1))
        bound = heaviest_pairs(tokens, degree)
        assert -answer.fun * (1 - 1e-9) <= bound <= -answer.fun * 1.03


@each("seed", [0, 1, 2])
def test_no_placement_costs_less_than_the_hierarchical_bound(seed: int) -> None:
    statistics = RoutingStatistics.collect(dropping_trace(4, 1, 2, 200, seed=seed, world_size=4, drop=0.1), 4)
    for topology in (Topology.hops(2, 2), uneven_topology(2, 2, seed), Topology.hops(4, 1), Topology.hops(1, 4)):
        bound = hierarchical_bound(statistics, topology)
        assert 0 < bound <= optimum("hierarchical", statistics, topology) + 1e-9
    assert bound == copies_bound(statistics, topology), "one node: the same messages"
