"""The heap of ends names the flow that a search through all of them finds."""

from typing import NamedTuple

import numpy as np
import pytest
from numba import njit

from netsim.engine.compiled.lines import zeros
from netsim.engine.event.state import Array
from netsim.engine.fluid.ends import add_end, bring_forward, first_end, take_first_end
from netsim.engine.fluid.streams import ENDING, STREAM

FLOWS = 200


class Heap(NamedTuple):
    """The fields of `netsim.engine.fluid.streams.Streams` that the heap of ends uses."""

    flows: Array
    ends: Array
    place: Array
    counts: Array


def no_flows() -> Heap:
    return Heap(zeros(FLOWS, STREAM), np.zeros(FLOWS, dtype=ENDING), np.zeros(FLOWS, dtype=np.int32), np.zeros(8, int))


@njit
def add(heap, index):
    add_end(heap, index)


@njit
def change(heap, indices):
    for index in indices:
        bring_forward(heap, index)


@njit
def first(heap):
    return first_end(heap)


@njit
def take(heap):
    return take_first_end(heap)


def ends_of(heap: Heap, active: list[int]) -> dict[int, float]:
    flows = heap.flows[active]
    with np.errstate(divide="ignore"):
        empty_ps = np.where(flows["rate"] > 0, flows["since_ps"] + flows["left"] / flows["rate"], np.inf)
    return dict(zip(active, empty_ps.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_the_first_is_that_of_a_search_whatever_rates_change_together(seed):
    rng = np.random.default_rng(seed)
    heap, active, admitted = no_flows(), [], 0
    for now in range(400):
        for _ in range(min(rng.integers(4), FLOWS - admitted)):
            heap.flows["left"][admitted], heap.flows["since_ps"][admitted] = rng.integers(1, 50), now
            add(heap, admitted)
            active.append(admitted)
            admitted += 1
        if not active:
            continue
        changed = rng.choice(active, rng.integers(len(active) + 1), replace=False)
        for index in changed:
            flow = heap.flows[index]
            flow["left"] = max(0.0, flow["left"] - flow["rate"] * (now - flow["since_ps"]))
            flow["rate"], flow["since_ps"] = rng.integers(5) / 4, now
        change(heap, changed)
        ends = ends_of(heap, active)
        assert first(heap) == min(ends.values())
        while active and first(heap) <= now + 1:
            index = take(heap)
            assert index == min(active, key=lambda flow: (ends[flow], flow))
            active.remove(index)
    assert admitted == FLOWS
    assert len(active) < FLOWS / 2


def test_flows_without_a_rate_never_end():
    heap = no_flows()
    assert first(heap) == np.inf
    add(heap, 0)
    assert first(heap) == np.inf
