"""Heap of the active flows, each by a time at or before its end; `first_end` makes the time of the first flow exact.

A flow that gets slower keeps its time until it comes first: many are faster again by then. The times are in the heap
itself: at hundreds of thousands of flows those of the flows compared would be in no cache.
"""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Record, Whole
from netsim.engine.fluid.streams import ACTIVE, Streams


@compiled
def first_end(streams: Streams) -> float:
    """When the first flow has sent everything, infinite if none ever has."""
    if not streams.counts[ACTIVE]:
        return np.inf
    first = streams.ends[0]
    while True:
        flow = streams.flows[first.flow]
        empty_ps = _empty_ps(flow)
        if empty_ps <= first.due_ps:
            return empty_ps
        flow.due_ps = empty_ps
        _sink(streams, empty_ps, np.int64(first.flow))


@compiled
def add_end(streams: Streams, index: int) -> None:
    """Adds a flow whose end is not known yet."""
    streams.flows[index].due_ps = np.inf
    _put(streams, streams.counts[ACTIVE], np.inf, index)
    streams.counts[ACTIVE] += 1


@compiled
def take_first_end(streams: Streams) -> Whole:
    """Takes the first flow out of the heap and returns it."""
    counts, index = streams.counts, np.int64(streams.ends[0].flow)
    counts[ACTIVE] -= 1
    last = streams.ends[counts[ACTIVE]]
    if counts[ACTIVE]:
        _sink(streams, last.due_ps, np.int64(last.flow))
    streams.place[index] = -1
    return index


@compiled
def bring_forward(streams: Streams, index: int) -> None:
    """Moves a flow up in the heap if it will have sent everything before its time there."""
    flow = streams.flows[index]
    empty_ps = _empty_ps(flow)
    if empty_ps >= flow.due_ps:
        return
    flow.due_ps = empty_ps
    ends, place = streams.ends, np.int64(streams.place[index])
    while place > 0 and _is_before(empty_ps, index, ends[(place - 1) >> 1]):
        above = (place - 1) >> 1
        _put(streams, place, ends[above].due_ps, np.int64(ends[above].flow))
        place = above
    _put(streams, place, empty_ps, index)


@compiled
def _empty_ps(flow: Record) -> float:
    return flow.since_ps + flow.left / flow.rate if flow.rate else np.inf


@compiled
def _sink(streams: Streams, due_ps: float, index: int) -> None:
    """Moves a flow down from the first place."""
    ends, size, place = streams.ends, streams.counts[ACTIVE], np.int64(0)
    while 2 * place + 1 < size:
        below = 2 * place + 1
        if below + 1 < size and _is_before(ends[below + 1].due_ps, ends[below + 1].flow, ends[below]):
            below += 1
        if _is_before(due_ps, index, ends[below]):
            break
        _put(streams, place, ends[below].due_ps, np.int64(ends[below].flow))
        place = below
    _put(streams, place, due_ps, index)


@compiled
def _is_before(due_ps: float, index: int, entry: Record) -> bool:
    """Whether a flow is before that of an entry; of flows with the same time the older one is."""
    return due_ps < entry.due_ps or (due_ps == entry.due_ps and index < entry.flow)


@compiled
def _put(streams: Streams, place: Whole, due_ps: float, index: int) -> None:
    entry = streams.ends[place]
    entry.due_ps, entry.flow = due_ps, index
    streams.place[index] = place
