from itertools import permutations

import numpy as np
import pytest

from moe.migration.trigger import measure_drift
from moe.placement import Placement
from moe.placement.cost.objective import OBJECTIVES
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.ranks import relabel
from moe.placement.solver.solve import keep_near, solve
from moe.placement.topology import Topology
from tests.each import each
from tests.moe.traces import dropping_trace, markov_trace, trace

TOPOLOGY = Topology.hops(2, 2)


def window(seed: int, tokens_seed: int, tokens: int = 4_000, affinity: float = 0.9) -> RoutingStatistics:
    routing = markov_trace(8, 6, affinity, tokens, seed=seed, world_size=4, tokens_seed=tokens_seed)
    return RoutingStatistics.collect(routing, 4)


def test_a_placement_of_the_same_routing_has_next_to_no_regret_and_one_of_another_much() -> None:
    placed = solve(window(0, 0), TOPOLOGY, objective="coherent", solver="sweep").expert_ranks()
    same = measure_drift(window(0, 1), TOPOLOGY, placed, "coherent")
    other = measure_drift(window(1, 0), TOPOLOGY, placed, "coherent")
    assert 0 <= same.regret < 0.1
    assert other.regret > 0.5
    cost = OBJECTIVES["coherent"]
    assert other.current_cost * 4_000 == cost(window(1, 0), placed, TOPOLOGY.cost).sum()
    assert other.fresh_cost * 4_000 == cost(window(1, 0), other.fresh_ranks, TOPOLOGY.cost).sum()
    assert other.regret == pytest.approx(other.current_cost / other.fresh_cost - 1)


@each("objective", ["coherent", "home", "copies"])
def test_regret_is_never_negative_and_repeats(objective: Dispatch) -> None:
    routing = dropping_trace(8, 3, 2, 300, seed=0, world_size=4, drop=0.1)
    statistics = RoutingStatistics.collect(routing, 4)
    placed = solve(statistics, TOPOLOGY, objective=objective, seed=1).expert_ranks()
    one, two = (measure_drift(statistics, TOPOLOGY, placed, objective, seed=5) for _ in range(2))
    assert one.regret == two.regret >= 0
    np.testing.assert_array_equal(one.fresh_ranks, two.fresh_ranks)


def test_traffic_that_could_be_free_makes_any_cost_an_infinite_regret() -> None:
    ids = np.tile(np.arange(8)[:, None, None], (5, 3, 1))
    statistics = RoutingStatistics.collect(trace(ids, ids[:, 0, 0] // 2, 8, 4), 4)
    contiguous = np.tile(np.arange(8) // 2, (3, 1))
    assert measure_drift(statistics, TOPOLOGY, contiguous, "coherent").regret == 0
    assert measure_drift(statistics, TOPOLOGY, np.stack([contiguous[0], contiguous[0][::-1], contiguous[0]]),
                         "coherent").regret == float("inf")  # fmt: skip


def test_a_placement_under_other_names_is_given_the_names_in_use() -> None:
    statistics = window(0, 0)
    placed = solve(statistics, TOPOLOGY, objective="coherent", solver="sweep")
    ranks = placed.expert_ranks()
    names = np.array([3, 2, 0, 1])
    contiguous = Placement.contiguous(6, 8, 2, 2)
    slots = tuple(tuple(layer[names.tolist().index(rank)] for rank in range(4)) for layer in placed.rank_experts)
    current = placed.model_copy(update={"rank_experts": slots})
    np.testing.assert_array_equal(current.expert_ranks(), names[ranks])
    kept = keep_near(placed, current, statistics, TOPOLOGY)
    np.testing.assert_array_equal(kept.expert_ranks(), current.expert_ranks())
    assert kept.objective == placed.objective
    for other in (contiguous, current):
        near = keep_near(placed, other, statistics, TOPOLOGY).expert_ranks()
        cost = OBJECTIVES["coherent"]
        assert cost(statistics, near, TOPOLOGY.cost).sum() == cost(statistics, ranks, TOPOLOGY.cost).sum()
        best = max((np.array(order)[ranks] == other.expert_ranks()).sum() for order in node_keeping_orders())
        assert (near == other.expert_ranks()).sum() == best


def node_keeping_orders() -> list[tuple[int, ...]]:
    """Names of 2 x 2 ranks that keep those of a node together."""
    return [order for order in permutations(range(4)) if order[0] // 2 == order[1] // 2]


def test_names_stay_where_the_cost_tells_the_ranks_apart() -> None:
    uneven = Topology(2, 2, np.array([[0, 1, 2, 2], [1, 0, 2, 2], [2, 2, 0, 1], [2, 2, 1.5, 0]]), "units")
    new, old = np.array([[2, 2, 3, 3, 0, 0, 1, 1]]), np.array([[0, 0, 1, 1, 2, 2, 3, 3]])
    np.testing.assert_array_equal(relabel(old, new, uneven), new)
    np.testing.assert_array_equal(relabel(old, new, TOPOLOGY), old)
    home = RoutingStatistics.collect(dropping_trace(8, 1, 1, 200, seed=0, world_size=4, drop=0.0), 4)
    placed = solve(home, TOPOLOGY, objective="home")
    assert keep_near(placed, Placement.contiguous(1, 8, 2, 2), home, TOPOLOGY) == placed
