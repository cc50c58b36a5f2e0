"""The heap of ends names the flow that a search through all of them finds."""

import numpy as np

from netsim.engine import _core
from netsim.engine.core.fabric import fabric_arrays
from netsim.engine.fluid.streams import Streams, streams_of
from tests.each import each
from tests.netsim.scenes import fabric, scene

FLOWS = 200


def no_flows() -> Streams:
    """Streams with room for the flows of a test, none of which is active."""
    what = scene(fabric(2, 2, 1), [])
    arrays = fabric_arrays(what)
    return streams_of(what, arrays, FLOWS, np.ones(len(arrays.usable)))


def ends_of(heap: Streams, active: list[int]) -> dict[int, float]:
    flows = heap.flows[active]
    with np.errstate(divide="ignore"):
        empty_ps = np.where(flows["rate"] > 0, flows["since_ps"] + flows["left"] / flows["rate"], np.inf)
    return dict(zip(active, empty_ps.tolist(), strict=True))


@each("seed", range(8))
def test_the_first_is_that_of_a_search_whatever_rates_change_together(seed):
    rng = np.random.default_rng(seed)
    heap, active, admitted = no_flows(), [], 0
    for now in range(400):
        for _ in range(min(rng.integers(4), FLOWS - admitted)):
            heap.flows["left"][admitted], heap.flows["since_ps"][admitted] = rng.integers(1, 50), now
            _core.add_end(tuple(heap), admitted)
            active.append(admitted)
            admitted += 1
        if not active:
            continue
        changed = rng.choice(active, rng.integers(len(active) + 1), replace=False)
        for index in changed:
            flow = heap.flows[index]
            flow["left"] = max(0.0, flow["left"] - flow["rate"] * (now - flow["since_ps"]))
            flow["rate"], flow["since_ps"] = rng.integers(5) / 4, now
        for index in changed.tolist():
            _core.bring_forward(tuple(heap), index)
        ends = ends_of(heap, active)
        assert _core.first_end(tuple(heap)) == min(ends.values())
        while active and _core.first_end(tuple(heap)) <= now + 1:
            index = _core.take_first_end(tuple(heap))
            assert index == min(active, key=lambda flow: (ends[flow], flow))
            active.remove(index)
    assert admitted == FLOWS
    assert len(active) < FLOWS / 2


def test_flows_without_a_rate_never_end():
    heap = no_flows()
    assert _core.first_end(tuple(heap)) == np.inf
    _core.add_end(tuple(heap), 0)
    assert _core.first_end(tuple(heap)) == np.inf
