"""The workloads of the imbalance benchmark have the loads that they state, and the busiest expert of a closed form."""

from itertools import product

import numpy as np
import pytest

from moe.routing_trace import RoutingHeader, RoutingTrace
from tests.benchmarks.imbalance.traffic import expert_load
from tests.benchmarks.imbalance.workloads import (
    BURST_EVERY,
    LOADS,
    Shape,
    busiest,
    real,
    synthetic,
)
from tests.each import each

SHAPES = [Shape(ranks=4, tokens=128, experts=64, top_k=6), Shape(2, 12, 8, 2), Shape(1, 30, 10, 1)]


def favourites(logits: np.ndarray, top_k: int) -> np.ndarray:
    """The k largest of each row, by sorting all."""
    return np.argsort(-logits, axis=-1, kind="stable")[..., :top_k]


@each("shape, name", product(SHAPES, LOADS))
def test_plain_top_k_has_the_stated_loads(name: str, shape: Shape) -> None:
    for step, logits in enumerate(synthetic(name, shape, 3, seed=5)):
        assert logits.shape == (shape.ranks, shape.tokens, shape.experts)
        loads = np.bincount(favourites(logits, shape.top_k).ravel(), minlength=shape.experts)
        np.testing.assert_array_equal(loads, LOADS[name](shape, step))
        assert loads.sum() == shape.batch * shape.top_k


@each("shape", SHAPES)
def test_the_busiest_expert_has_a_closed_form(shape: Shape) -> None:
    for name in LOADS:
        (logits,) = synthetic(name, shape, 1, seed=0)
        (found,) = expert_load(favourites(logits, shape.top_k)[None], shape.experts)
        rounding = shape.experts / shape.choices  # one token more or less
        assert found == pytest.approx(float(busiest(name, shape)), abs=rounding), name


def test_drift_hands_the_loads_on_and_bursts_come_once_in_eight() -> None:
    shape = SHAPES[0]
    for step in (0, 1, 17, 63):
        np.testing.assert_array_equal(np.roll(LOADS["drifting"](shape, step), -step), LOADS["Zipf"](shape, step))
    hottest = [LOADS["bursty"](shape, step).max() for step in range(2 * BURST_EVERY)]
    assert [step for step, load in enumerate(hottest) if load == shape.batch // 2] == [0, BURST_EVERY]
    assert sorted(set(hottest)) == [shape.choices // shape.experts, shape.batch // 2]


def test_recorded_choices_come_back_in_their_order() -> None:
    shape, random = Shape(ranks=2, tokens=5, experts=6, top_k=3), np.random.default_rng(0)
    ids = random.random((40, 2, 6)).argsort(axis=2)[:, :, :3]
    header = RoutingHeader(num_experts=6, num_layers=2, top_k=3, world_size=4, model="drawn")
    source = np.arange(40) % 4
    trace = RoutingTrace(ids, source, header)
    for step, logits in enumerate(real([trace], 1, shape, 3, seed=0)):
        for rank in range(2):
            own = np.flatnonzero(source % 2 == rank)[5 * step :][:5]
            np.testing.assert_array_equal(favourites(logits[rank], 3)[: len(own)], ids[own, 1])
    dropped = RoutingTrace(np.where(ids == 0, -1, ids), source, header)
    with pytest.raises(ValueError, match="expert_ids: some choices were dropped"):
        next(real([dropped], 0, shape, 1, seed=0))
    with pytest.raises(ValueError, match="header: has 6 experts, 3 choices"):
        next(real([trace], 0, Shape(2, 5, 6, 2), 1, seed=0))
