import numpy as np
import pytest

from moe.placement.cost.objective import coherent_cost
from moe.placement.counts import RoutingStatistics
from moe.placement.ranks import contiguous_ranks
from moe.placement.solver.coherent import solve_staged, solve_sweep
from moe.placement.solver.enumeration import solve_viterbi
from moe.placement.topology import Topology
from tests.moe.exhaustive import is_balanced, uneven_topology
from tests.moe.traces import dropping_trace, markov_trace, trace


@pytest.mark.parametrize(
    "topology",
    [Topology.hops(2, 2), Topology.hops(1, 4), Topology.hops(4, 1), uneven_topology(2, 2, 0), Topology.hops(1, 1)],
    ids=["2x2", "1x4", "4x1", "uneven", "1x1"],
)
@pytest.mark.parametrize("drop", [0.0, 0.4])
def test_stages_end_below_sweep_and_contiguous_and_repeat_themselves(topology: Topology, drop: float) -> None:
    routing = dropping_trace(8, 4, 1, 400, seed=5, world_size=1, drop=drop)
    statistics = RoutingStatistics.collect(routing, topology.num_ranks)
    one, same = (solve_staged(statistics, topology, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.expert_ranks, same.expert_ranks)
    assert is_balanced(one.expert_ranks, topology.num_ranks)
    contiguous = contiguous_ranks(4, 8, topology.num_ranks)
    cost, sweep, start = (
        coherent_cost(statistics, ranks, topology.cost).sum()
        for ranks in (one.expert_ranks, solve_sweep(statistics, topology, seed=3).expert_ranks, contiguous)
    )
    assert one.lower_bound <= cost <= sweep <= start


@pytest.mark.parametrize(("nodes", "affinity"), [(1, 0.8), (2, 0.5), (2, 0.95)])
def test_stages_come_within_two_per_cent_of_the_optimum(nodes: int, affinity: float) -> None:
    topology = Topology.hops(nodes, 4 // nodes)
    statistics = RoutingStatistics.collect(markov_trace(8, 10, affinity, 5_000, seed=nodes), 4)
    found = solve_staged(statistics, topology, seed=0)
    cost = coherent_cost(statistics, found.expert_ranks, topology.cost).sum()
    assert cost <= 1.02 * solve_viterbi(statistics, topology, seed=0).lower_bound


def test_two_communities_go_to_two_nodes_and_their_pairs_to_ranks() -> None:
    draw = np.random.default_rng(0)
    community, pair = draw.integers(2, size=600), draw.integers(2, size=(600, 6))
    names = np.stack([draw.permutation(8) for _ in range(6)])
    ids = names[np.arange(6), 4 * community[:, None] + 2 * pair[:, :1] + draw.integers(2, size=(600, 6))]
    statistics = RoutingStatistics.collect(trace(ids[:, :, None], community, 8, 2), 4)
    topology = Topology.hops(2, 2)
    found = solve_staged(statistics, topology, seed=0)
    assert coherent_cost(statistics, found.expert_ranks, topology.cost).sum() == 0
