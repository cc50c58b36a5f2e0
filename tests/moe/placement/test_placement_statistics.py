from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest

from moe.placement.counts import RoutingStatistics, Tally
from moe.routing_trace import RoutingTrace
from tests.each import each
from tests.moe.traces import dropping_trace, markov_trace, trace


def assert_equal(one: RoutingStatistics, other: RoutingStatistics) -> None:
    fixed = ("num_tokens", "transitions", "source_counts", "loads", "dropped", "anchors", "coactivation")
    for name in (*fixed, "jumps"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("choice_sets", "visits"):
        tally, same = getattr(one, name), getattr(other, name)
        assert (tally is None) == (same is None)
        if tally is not None:
            np.testing.assert_array_equal(tally.rows, same.rows)
            np.testing.assert_array_equal(tally.tokens, same.tokens)


@each("drop", [0.0, 0.3, 0.8])
def test_counts_equal_a_walk_over_the_tokens(drop: float) -> None:
    routing = dropping_trace(5, 6, 2, 300, seed=1, world_size=6, drop=drop)
    transitions, sources, loads = Counter(), Counter(), Counter()
    for home, layers in zip(routing.source_rank.tolist(), routing.expert_ids.tolist(), strict=True):
        path = [(layer, next(e for e in kept if e >= 0)) for layer, kept in enumerate(layers) if max(kept) >= 0]
        for (start, leaving), (end, arriving) in pairwise(path):
            transitions[start, end, leaving, arriving] += 1
        for layer, kept in enumerate(layers):
            for expert in kept:
                if expert >= 0:
                    sources[layer, home % 3, expert] += 1
                    loads[layer, expert] += 1
    statistics = RoutingStatistics.collect(routing, num_ranks=3)
    near = {(gap, gap + 1, i, j): count for (gap, i, j), count in np.ndenumerate(statistics.transitions) if count}
    far = {tuple(kind): count for *kind, count in statistics.jumps.tolist()}
    assert near | far == dict(transitions)
    assert all(end - start > 1 for start, end, _, _ in far)
    assert statistics.skipped == sum(far.values())
    assert statistics.moves == sum(transitions.values())
    assert statistics.dropped == (routing.expert_ids == -1).sum()
    assert statistics.source_counts is not None
    assert {key: count for key, count in np.ndenumerate(statistics.source_counts) if count} == dict(sources)
    assert {key: count for key, count in np.ndenumerate(statistics.loads) if count} == dict(loads)


def test_counts_of_parts_add_up_to_the_counts_of_the_whole() -> None:
    parts = [dropping_trace(5, 4, 2, 100, seed=seed, world_size=4, drop=0.4) for seed in range(3)]
    whole = RoutingStatistics.collect(RoutingTrace.concatenate(parts), 2)
    first, second, third = (RoutingStatistics.collect(part, 2) for part in parts)
    assert_equal(first + second + third, whole)
    assert_equal(first + (third + second), whole)


@each("drop", [0.0, 0.5])
def test_choices_made_together_equal_a_walk_over_the_tokens(drop: float) -> None:
    routing = dropping_trace(5, 4, 3, 200, seed=2, world_size=4, drop=drop)
    repeated = routing.expert_ids.copy()
    repeated[:20, :, 1] = repeated[:20, :, 0]
    routing = replace(routing, expert_ids=repeated)
    pairs, sets, visits, anchors = Counter(), Counter(), Counter(), Counter()
    for home, layers in zip(routing.source_rank.tolist(), routing.expert_ids.tolist(), strict=True):
        before = (-1, -1)
        for layer, choices in enumerate(layers):
            kept = sorted({expert for expert in choices if expert >= 0})
            if not kept:
                continue
            first = next(expert for expert in choices if expert >= 0)
            others = [expert for expert in kept if expert != first]
            anchors[layer, first] += 1
            sets[layer, home % 2, *[-1] * (3 - len(kept)), *kept] += 1
            visits[layer, *before, first, *[-1] * (2 - len(others)), *others] += 1
            for one, other in combinations(kept, 2):
                pairs[layer, one, other] += 1
                pairs[layer, other, one] += 1
            before = (layer, first)
    statistics = RoutingStatistics.collect(routing, 2)
    assert {key: count for key, count in np.ndenumerate(statistics.coactivation) if count} == dict(pairs)
    assert {key: count for key, count in np.ndenumerate(statistics.anchors) if count} == dict(anchors)
    for tally, walked in ((statistics.choice_sets, sets), (statistics.visits, visits)):
        assert tally is not None
        assert dict(zip(map(tuple, tally.rows.tolist()), tally.tokens.tolist(), strict=True)) == dict(walked)
        assert tally.rows.tolist() == sorted(tally.rows.tolist())


@each("reach, columns", [(4, 3), (3_000_000, 7), (2**40, 3), (2**61, 2)], ids=["narrow", "wide", "wider", "widest"])
@each("weighted", [True, False])
def test_rows_are_told_apart_and_sorted_whether_or_not_one_number_holds_them(
    reach: int, columns: int, weighted: bool
) -> None:
    draw = np.random.default_rng(0)
    rows = draw.integers(-1, reach, size=(50, columns))[draw.integers(50, size=400)]
    rows[:20] = rows[0] + np.arange(20)[:, None] % 2 * np.eye(columns, dtype=np.int64)[-1]  # neighbours differ by 1
    weights = np.arange(1, 401) if weighted else np.ones(400, np.int64)
    tally = Tally.count(rows, weights if weighted else None)
    expected = Counter()
    for row, count in zip(map(tuple, rows.tolist()), weights.tolist(), strict=True):
        expected[row] += count
    assert dict(zip(map(tuple, tally.rows.tolist()), tally.tokens.tolist(), strict=True)) == dict(expected)
    assert list(map(tuple, tally.rows.tolist())) == sorted(expected)
    assert tally.tokens.dtype == tally.rows.dtype == np.int64


def test_one_vector_carries_what_has_a_fixed_size_and_vectors_add_up() -> None:
    parts = [dropping_trace(5, 4, 2, 100, seed=seed, world_size=4, drop=0.0) for seed in range(2)]
    one, other = (RoutingStatistics.collect(part, 2) for part in parts)
    vector = one.to_vector() + other.to_vector()
    assert (vector.dtype, vector.ndim) == (np.int64, 1)
    merged = RoutingStatistics.from_vector(vector, 4, 5, 2)
    assert_equal(merged, replace(one + other, choice_sets=None, visits=None))
    with pytest.raises(ValueError, match=r"vector: shape .* is not \[\d+\]; give the numbers of layers"):
        RoutingStatistics.from_vector(vector, 4, 5, None)
    without = replace(one, source_counts=None)
    assert RoutingStatistics.from_vector(without.to_vector(), 4, 5, None).source_counts is None


def test_a_world_of_no_whole_groups_has_no_source_counts() -> None:
    routing = dropping_trace(6, 3, 1, 50, seed=0, world_size=4, drop=0.0)
    without, with_counts = RoutingStatistics.collect(routing, 3), RoutingStatistics.collect(routing, 4)
    assert without.source_counts is None
    assert (without + with_counts).source_counts is None
    assert (without + without).loads.sum() == 300


def test_mutual_information_is_one_for_a_permutation_and_zero_for_independence() -> None:
    start = np.tile(np.arange(4), 4)
    permuted = np.stack([start, (start + 1) % 4], axis=1)[:, :, None]
    independent = np.stack([start, np.repeat(np.arange(4), 4)], axis=1)[:, :, None]
    certain, none = (RoutingStatistics.collect(trace(ids, start * 0, 4, 1), 1) for ids in (permuted, independent))
    assert certain.normalised_mutual_information() == pytest.approx([1.0])
    assert none.normalised_mutual_information() == pytest.approx([0.0], abs=1e-12)
    assert certain.top_mass(1) == pytest.approx([1.0])
    assert none.top_mass(1) == pytest.approx([0.25])
    assert none.top_mass(4) == pytest.approx([1.0])


def test_affinity_measures_rise_with_affinity() -> None:
    traces = [markov_trace(8, 3, affinity, 20_000, seed=0) for affinity in (0.0, 0.5, 0.95)]
    statistics = [RoutingStatistics.collect(routing, 1) for routing in traces]
    information = [float(counts.normalised_mutual_information().mean()) for counts in statistics]
    mass = [float(counts.top_mass(2).mean()) for counts in statistics]
    assert information[0] < 0.01 < information[1] < information[2]
    assert 0.25 <= mass[0] < 0.3 < mass[1] < mass[2]


def test_one_layer_has_no_gaps() -> None:
    statistics = RoutingStatistics.collect(markov_trace(4, 1, 0.5, 20, seed=0), 2)
    assert statistics.transitions.shape == (0, 4, 4)
    assert statistics.moves == 0
    assert len(statistics.normalised_mutual_information()) == len(statistics.top_mass(1)) == 0
