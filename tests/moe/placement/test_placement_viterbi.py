import pytest

from moe.placement.cost.objective import coherent_cost
from moe.placement.counts import RoutingStatistics
from moe.placement.solver.enumeration import MOST_STATES, num_states, solve_viterbi
from moe.placement.topology import Topology
from tests.each import each
from tests.moe.exhaustive import balanced_layers, is_balanced, optimum, uneven_topology
from tests.moe.traces import dropping_trace, markov_trace


@each(
    "experts, layers, topology",
    [
        (4, 4, Topology.hops(2, 1)),
        (4, 4, uneven_topology(1, 2, 0)),
        (3, 5, uneven_topology(1, 3, 1)),
        (6, 3, Topology.hops(1, 2)),
        (4, 3, uneven_topology(2, 2, 2)),
        (4, 1, Topology.hops(2, 1)),
        (4, 3, Topology.hops(1, 1)),
    ],
)
def test_viterbi_finds_the_optimum_and_knows_it(experts: int, layers: int, topology: Topology) -> None:
    statistics = RoutingStatistics.collect(markov_trace(experts, layers, 0.7, 200, seed=layers), topology.num_ranks)
    found = solve_viterbi(statistics, topology, seed=0)
    assert is_balanced(found.expert_ranks, topology.num_ranks)
    cost = coherent_cost(statistics, found.expert_ranks, topology.cost).sum()
    assert cost == found.lower_bound == optimum("coherent", statistics, topology)


@each("topology", [Topology.hops(2, 1), uneven_topology(1, 2, 3)])
def test_with_jumps_viterbi_only_claims_a_bound(topology: Topology) -> None:
    for seed in range(2):
        routing = dropping_trace(4, 4, 1, 200, seed=seed, world_size=1, drop=0.4)
        statistics = RoutingStatistics.collect(routing, 2)
        found = solve_viterbi(statistics, topology, seed=0)
        cost = coherent_cost(statistics, found.expert_ranks, topology.cost).sum()
        assert 0 < found.lower_bound <= optimum("coherent", statistics, topology) <= cost


def test_states_are_counted_without_being_listed() -> None:
    for experts, ranks in [(4, 2), (6, 3), (6, 1), (8, 2), (5, 5)]:
        assert num_states(experts, ranks) == len(balanced_layers(experts, ranks))
    assert num_states(8, 4) == 2_520 <= MOST_STATES


def test_what_viterbi_cannot_list_is_refused_with_another_solver() -> None:
    statistics = RoutingStatistics.collect(markov_trace(16, 2, 0.5, 10, seed=0), 4)
    with pytest.raises(ValueError, match=r"solver: viterbi .* \(63,063,000 for 16 experts on 4 ranks\); choose pair"):
        solve_viterbi(statistics, Topology.hops(1, 4), seed=0)
    with pytest.raises(ValueError, match="num_experts: 16 experts do not divide among 3 ranks; choose"):
        solve_viterbi(statistics, Topology.hops(1, 3), seed=0)
