from itertools import permutations

import numpy as np

from moe.placement.cost.objective import coherent_cost
from moe.placement.counts import RoutingStatistics
from moe.placement.ranks import relabel
from moe.placement.topology import Topology
from tests.each import each
from tests.moe.exhaustive import random_ranks, uneven_topology
from tests.moe.traces import markov_trace


@each("topology", [Topology.hops(2, 2), Topology.hops(1, 4), Topology.hops(4, 1)])
def test_as_many_experts_stay_as_any_renaming_of_nodes_and_ranks_allows(topology: Topology) -> None:
    symmetries = [
        np.array(names)
        for names in permutations(range(4))
        if np.array_equal(topology.cost[np.ix_(names, names)], topology.cost)
    ]
    assert len(symmetries) in (8, 24)
    statistics = RoutingStatistics.collect(markov_trace(8, 5, 0.8, 500, seed=0), 4)
    for seed in range(10):
        old, new = random_ranks(5, 8, 4, seed), random_ranks(5, 8, 4, seed + 100)
        named = relabel(old, new, topology)
        assert (named == old).sum() == max((names[new] == old).sum() for names in symmetries)
        costs = [coherent_cost(statistics, ranks, topology.cost).sum() for ranks in (new, named)]
        assert costs[0] == costs[1]


def test_a_placement_under_other_names_moves_nothing() -> None:
    old = random_ranks(4, 16, 8, 0)
    names = np.array([6, 7, 4, 5, 1, 0, 2, 3])
    np.testing.assert_array_equal(relabel(old, names[old], Topology.hops(4, 2)), old)


def test_a_renaming_that_would_change_the_cost_is_not_taken() -> None:
    old = random_ranks(4, 8, 4, 0)
    names = np.array([1, 0, 3, 2])
    np.testing.assert_array_equal(relabel(old, names[old], uneven_topology(2, 2, 0)), names[old])


def test_unlike_nodes_keep_their_names_and_their_ranks_may_change() -> None:
    cost = np.array([[0, 1, 5, 5], [1, 0, 5, 5], [5, 5, 0, 2], [5, 5, 2, 0]], dtype=float)
    topology = Topology(2, 2, cost, "units")
    old = random_ranks(4, 8, 4, 0)
    np.testing.assert_array_equal(relabel(old, np.array([1, 0, 3, 2])[old], topology), old)
    across = relabel(old, np.array([2, 3, 0, 1])[old], topology)
    assert (across == old).sum() < old.size
