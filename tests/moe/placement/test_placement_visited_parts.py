"""The bound on how few ranks tokens visit, and the relaxation of all divisions that it rests on."""

from itertools import product

import numpy as np

from moe.placement.bound.copies import copies_bound
from moe.placement.bound.distinct import Divisions, Multipliers, Relaxation, fewest_parts
from moe.placement.cost.objective import copies_cost
from moe.placement.counts import RoutingStatistics
from moe.placement.topology import Topology
from tests.each import each
from tests.moe.exhaustive import balanced_layers, random_ranks, uneven_topology
from tests.moe.traces import dropping_trace
from tests.pairwise import pairwise_cover


def shared_by(ranks: np.ndarray) -> np.ndarray:
    flat = ranks.ravel()
    return (flat[:, None] == flat).astype(float)


def random_sets(experts: int, choices: int, sets: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sets with a few choices missing, most of them within one of two halves of the experts."""
    draw = np.random.default_rng(seed)
    keys = draw.random((sets, experts)) + 0.7 * (np.arange(experts) % 2 == draw.integers(2, size=sets)[:, None])
    chosen = keys.argsort(axis=1)[:, -choices:]
    missing = (draw.random(chosen.shape) < 0.1) & (np.arange(choices) > 0)
    return np.sort(np.where(missing, -1, chosen), axis=1), draw.integers(1, 9, size=sets)


def parts_visited(experts: np.ndarray, tokens: np.ndarray, ranks: np.ndarray, homes: np.ndarray | None) -> int:
    total = 0
    for number, (choices, count) in enumerate(zip(experts, tokens, strict=True)):
        visited = {int(ranks[expert]) for expert in choices if expert >= 0}
        total += int(count) * len(visited - (set() if homes is None else {int(homes[number])}))
    return total


@each("choices, parts, at_home", pairwise_cover([1, 2, 3, 5, 7], [1, 2, 4], [False, True]))
def test_no_division_visits_fewer_parts(choices: int, parts: int, at_home: bool) -> None:
    experts, tokens = random_sets(8, choices, 60, seed=choices)
    homes = np.random.default_rng(1).integers(parts, size=60) if at_home else None
    loads = np.bincount(experts[experts >= 0], weights=np.repeat(tokens, (experts >= 0).sum(axis=1)), minlength=8)
    layers = [np.array(layer) for layer in balanced_layers(8, parts)]
    visited = np.array([parts_visited(experts, tokens, layer, homes) for layer in layers])
    busiest = np.array([np.bincount(layer, weights=loads, minlength=parts).max() for layer in layers])
    limit = busiest.min()
    for rounds in (0, 1, 20):
        assert fewest_parts(experts, tokens, 8, parts, rounds, homes) <= visited.min()
        bound = fewest_parts(experts, tokens, 8, parts, rounds, homes, loads / limit)
        assert bound <= visited[busiest <= limit].min()


def test_the_bound_is_close_where_choices_go_together() -> None:
    experts, tokens = random_sets(8, 3, 400, seed=0)
    best = min(parts_visited(experts, tokens, np.array(layer), None) for layer in balanced_layers(8, 2))
    assert fewest_parts(experts, tokens, 8, 2, 40) >= 0.9 * best


@each("layers", [1, 3])
def test_no_division_has_more_weight_together_than_the_bound(layers: int) -> None:
    draw = np.random.default_rng(layers)
    size = 6 * layers
    weights = draw.normal(size=(size, size)) ** 3
    weights += weights.T
    divisions = Divisions(layers, 6, 3)
    relaxation = Relaxation(divisions, divisions.mean())
    most = max((shared_by(random_ranks(layers, 6, 3, seed)) * weights).sum() for seed in range(300))
    bounds = []
    for _ in range(4):
        for _ in range(10):
            relaxation.step(weights)
        bounds.append(divisions.most(weights, relaxation.multipliers(), 5))
    nothing = Multipliers(np.zeros(size), np.zeros((size, size)))
    assert most <= min(bounds)
    assert most <= divisions.most(weights, nothing, 1)
    assert bounds[-1] <= divisions.most(weights, nothing, 1)


def test_divisions_are_their_own_nearest_matrix_and_the_mean_is_that_of_many() -> None:
    divisions = Divisions(2, 6, 3)
    drawn = [shared_by(random_ranks(2, 6, 3, seed)) for seed in range(4_000)]
    for shared in drawn[:5]:
        np.testing.assert_allclose(divisions.nearest(shared), shared, atol=1e-6)
    np.testing.assert_allclose(np.mean(drawn, axis=0), divisions.mean(), atol=0.04)


@each("topology, top_k", product([Topology.hops(1, 2), Topology.hops(2, 2), uneven_topology(2, 2, 3)], [2, 4]))
def test_the_copies_bound_is_below_the_optimum_within_the_limits(topology: Topology, top_k: int) -> None:
    routing = dropping_trace(8, 1, top_k, 150, seed=top_k, world_size=4, drop=0.1)
    statistics = RoutingStatistics.collect(routing, topology.num_ranks)
    layers = [np.array([layer]) for layer in balanced_layers(8, topology.num_ranks)]
    costs = np.array([copies_cost(statistics, layer, topology.cost).sum() for layer in layers])
    loads = [np.bincount(layer[0], weights=statistics.loads[0]).max() for layer in layers]
    limit = min(loads)
    for rounds in (6, 30):
        assert copies_bound(statistics, topology, rounds=rounds) <= costs.min()
        bound = copies_bound(statistics, topology, np.array([limit]), rounds)
        assert bound <= costs[np.array(loads) <= limit].min()
