from itertools import product

import numpy as np
from scipy.optimize import linear_sum_assignment

from moe.placement.cost.objective import coherent_cost
from moe.placement.counts import RoutingStatistics
from moe.placement.ranks import contiguous_ranks
from moe.placement.solver.coherent import best_sweep, solve_pair
from moe.placement.solver.descent import Annealing, Descent, Traffic, kicked
from moe.placement.solver.enumeration import solve_viterbi
from moe.placement.solver.kernels import kernels
from moe.placement.topology import Topology
from tests.each import each
from tests.moe.exhaustive import is_balanced, random_ranks, uneven_topology
from tests.moe.traces import coherent_walk, dropping_trace, markov_trace

PAIRS = np.array([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]])


def traffic_of(statistics: RoutingStatistics, topology: Topology) -> Traffic:
    return Traffic.collect(statistics.transitions, statistics.jumps, topology.cost)


def descent_of(statistics: RoutingStatistics, topology: Topology) -> Descent:
    return Descent(statistics.transitions, statistics.jumps, topology.cost)


def movable_experts(ranks: np.ndarray, first: int, second: int) -> np.ndarray:
    return np.stack([np.concatenate([np.flatnonzero(layer == rank) for rank in (first, second)]) for layer in ranks])


@each("seed", range(5))
def test_compiled_assignment_is_as_cheap_as_that_of_scipy(seed: int) -> None:
    draw = np.random.default_rng(seed)
    for num_experts, num_ranks in [(1, 1), (4, 4), (8, 4), (12, 3), (64, 16), (30, 2)]:
        for most in (2, 1_000):
            prices = draw.integers(most, size=(num_ranks, num_experts)).astype(float)
            ranks = np.empty(num_experts, np.int64)
            kernels().cheapest_ranks(prices, ranks)
            assert is_balanced(ranks[None], num_ranks)
            slots = np.repeat(prices, num_experts // num_ranks, axis=0)
            assert prices[ranks, np.arange(num_experts)].sum() == slots[linear_sum_assignment(slots)].sum()


@each("drop", [0.0, 0.4])
def test_compiled_cost_is_the_cost_of_the_tokens_one_by_one(drop: float) -> None:
    routing = dropping_trace(8, 6, 2, 300, seed=2, world_size=1, drop=drop)
    statistics, topology = RoutingStatistics.collect(routing, 4), uneven_topology(2, 2, 0)
    ranks = random_ranks(6, 8, 4, 1)
    assert descent_of(statistics, topology).cost(ranks) == coherent_walk(routing, ranks, topology.cost)[0]
    walked = coherent_walk(routing, ranks, topology.cost, copies=True)[0]
    assert coherent_cost(statistics, ranks, topology.cost).sum() == walked
    assert Annealing(statistics, topology).cost(ranks) == walked


@each("topology", [Topology.hops(3, 1), Topology.hops(1, 3), uneven_topology(1, 3, 4)])
def test_a_re_split_is_the_best_of_all_divisions_of_two_ranks(topology: Topology) -> None:
    for seed in range(4):
        statistics = RoutingStatistics.collect(markov_trace(6, 4, 0.8, 300, seed=seed), 3)
        ranks = random_ranks(4, 6, 3, seed)
        movable = movable_experts(ranks, 0, 2)
        least = np.inf
        for division in product(PAIRS, repeat=4):
            tried = ranks.copy()
            for layer, chosen in enumerate(division):
                tried[layer, movable[layer]] = 2
                tried[layer, movable[layer, chosen]] = 0
            least = min(least, coherent_cost(statistics, tried, topology.cost).sum())
        before = coherent_cost(statistics, ranks, topology.cost).sum()
        gain = kernels().resplit(traffic_of(statistics, topology), ranks, 0, 2, movable, PAIRS)
        assert coherent_cost(statistics, ranks, topology.cost).sum() == before - gain == least


def test_a_re_split_with_jumps_never_raises_the_cost_and_knows_its_gain() -> None:
    gains = []
    for seed in range(20):
        routing = dropping_trace(4, 6, 1, 60, seed=seed, world_size=1, drop=0.6)
        topology = uneven_topology(1, 2, seed)
        traffic = traffic_of(RoutingStatistics.collect(routing, 2), topology)
        ranks = random_ranks(6, 4, 2, seed)
        before = coherent_walk(routing, ranks, topology.cost)[0]
        gains.append(kernels().resplit(traffic, ranks, 0, 1, movable_experts(ranks, 0, 1), PAIRS))
        assert coherent_walk(routing, ranks, topology.cost)[0] == before - gains[-1] <= before
        assert is_balanced(ranks, 2)
    assert any(gains)
    assert not all(gains)


@each(
    "experts, topology, drop",
    [
        (8, Topology.hops(2, 2), 0.0),
        (8, uneven_topology(2, 2, 1), 0.3),
        (12, uneven_topology(1, 2, 2), 0.0),
        (24, Topology.hops(1, 4), 0.2),
        (4, Topology.hops(1, 1), 0.3),
        (4, Topology.hops(2, 2), 0.0),
    ],
)
def test_a_search_never_raises_the_cost_and_repeats_itself(experts: int, topology: Topology, drop: float) -> None:
    routing = dropping_trace(experts, 5, 1, 500, seed=3, world_size=1, drop=drop)
    statistics = RoutingStatistics.collect(routing, topology.num_ranks)
    descent = descent_of(statistics, topology)
    for seed in range(3):
        start = random_ranks(5, experts, topology.num_ranks, seed)
        one, same = (descent.search(start, kicks=20, work=10**8, generator=np.random.default_rng(7)) for _ in range(2))
        np.testing.assert_array_equal(one, same)
        assert is_balanced(one, topology.num_ranks)
        cost = coherent_cost(statistics, one, topology.cost).sum()
        assert cost <= coherent_cost(statistics, start, topology.cost).sum()
        longer = descent.search(start, kicks=60, work=10**8, generator=np.random.default_rng(7))
        assert coherent_cost(statistics, longer, topology.cost).sum() <= cost


def test_work_ends_a_search_that_kicks_would_not() -> None:
    statistics = RoutingStatistics.collect(markov_trace(16, 8, 0.8, 2_000, seed=0), 4)
    descent = descent_of(statistics, Topology.hops(2, 2))
    start = random_ranks(8, 16, 4, 0)
    ends = [descent.search(start, kicks=10**9, work=w, generator=np.random.default_rng(0)) for w in (10**4, 10**7)]
    costs = [descent.cost(ranks) for ranks in (start, *ends)]
    assert costs == sorted(costs, reverse=True)


def test_a_kick_keeps_the_balance_and_moves_experts() -> None:
    draw = np.random.default_rng(0)
    for num_experts, num_ranks in [(8, 2), (8, 4), (6, 6)]:
        ranks = random_ranks(5, num_experts, num_ranks, 0)
        kicks = [kicked(ranks, num_ranks, draw) for _ in range(20)]
        assert all(is_balanced(kick, num_ranks) for kick in kicks)
        assert sum((kick != ranks).any() for kick in kicks) > 10


@each("nodes, affinity", [(1, 0.5), (2, 0.8), (2, 0.95)])
def test_pair_moves_come_within_two_per_cent_of_the_optimum(nodes: int, affinity: float) -> None:
    topology = Topology.hops(nodes, 4 // nodes)
    statistics = RoutingStatistics.collect(markov_trace(8, 10, affinity, 5_000, seed=nodes), 4)
    found = solve_pair(statistics, topology, seed=0)
    cost = coherent_cost(statistics, found.expert_ranks, topology.cost).sum()
    best = solve_viterbi(statistics, topology, seed=0).lower_bound
    assert found.lower_bound <= best <= cost <= 1.02 * best


def test_pair_moves_beat_the_sweep_they_begin_with_where_a_rank_has_many_experts() -> None:
    topology = Topology.hops(1, 2)
    statistics = RoutingStatistics.collect(markov_trace(24, 6, 0.8, 4_000, seed=0), 2)
    descent = descent_of(statistics, topology)
    sweep = best_sweep(descent, np.random.default_rng(0))
    search = descent.search(sweep, kicks=50, work=10**8, generator=np.random.default_rng(0))
    assert descent.cost(search) < 0.97 * descent.cost(sweep)
    assert descent.cost(sweep) <= descent.cost(contiguous_ranks(6, 24, 2))
