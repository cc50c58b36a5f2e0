import numpy as np
import pytest

from moe.placement.cost.objective import coherent_cost
from moe.placement.counts import RoutingStatistics
from moe.placement.ranks import contiguous_ranks
from moe.placement.solver.enumeration import solve_viterbi
from moe.placement.topology import Topology
from tests.each import each
from tests.moe.exhaustive import is_balanced, optimum, uneven_topology
from tests.moe.traces import dropping_trace, markov_trace
from tests.oracle import integer_programme
from tests.oracle.integer_programme import solve_milp


@each("topology", [Topology.hops(2, 1), uneven_topology(1, 2, 0), Topology.hops(2, 2), Topology.hops(1, 4)])
@each("drop", [0.0, 0.3])
def test_the_programme_has_the_optimum_found_by_trying_all(topology: Topology, drop: float) -> None:
    routing = dropping_trace(4, 3, 1, 200, seed=2, world_size=1, drop=drop)
    statistics = RoutingStatistics.collect(routing, topology.num_ranks)
    found = solve_milp(statistics, topology, seed=0)
    assert is_balanced(found.expert_ranks, topology.num_ranks)
    best = optimum("coherent", statistics, topology)
    assert coherent_cost(statistics, found.expert_ranks, topology.cost).sum() == best
    assert best * 0.999 <= found.lower_bound <= best


@each("topology", [Topology.hops(2, 1), Topology.hops(2, 2), uneven_topology(2, 2, 1)])
def test_a_programme_cut_short_encloses_the_optimum(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_programme, "NODES", 0)
    statistics = RoutingStatistics.collect(markov_trace(8, 3, 0.8, 500, seed=1), topology.num_ranks)
    one, same = (solve_milp(statistics, topology, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(one.expert_ranks, same.expert_ranks)
    cost, contiguous = (
        coherent_cost(statistics, ranks, topology.cost).sum()
        for ranks in (one.expert_ranks, contiguous_ranks(3, 8, topology.num_ranks))
    )
    assert one.lower_bound <= solve_viterbi(statistics, topology, seed=0).lower_bound <= cost <= contiguous


def test_nothing_to_pay_needs_no_programme() -> None:
    statistics = RoutingStatistics.collect(markov_trace(4, 3, 0.8, 50, seed=0), 1)
    found = solve_milp(statistics, Topology.hops(1, 1), seed=0)
    assert found.lower_bound == 0
    np.testing.assert_array_equal(found.expert_ranks, 0)
