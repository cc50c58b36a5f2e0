"""Heap of the active flows by when they have sent everything; each flow's place in it is known.

The times are in the heap itself: at hundreds of thousands of flows those of flows compared would be in no cache.
"""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Whole
from netsim.engine.fluid.streams import ACTIVE, Streams


@compiled
def first_end(streams: Streams) -> float:
    """When the first flow has sent everything, infinite if none ever has."""
    return streams.ends[0].empty_ps if streams.counts[ACTIVE] else np.inf


@compiled
def add_end(streams: Streams, index: int) -> None:
    """Adds a flow whose end is not known yet."""
    _put(streams, streams.counts[ACTIVE], np.inf, index)
    streams.counts[ACTIVE] += 1


@compiled
def set_end(streams: Streams, index: int, empty_ps: float) -> None:
    """Notes when a flow has sent everything; `move_end` or `order_ends` brings it to its place."""
    streams.ends[streams.place[index]].empty_ps = empty_ps


@compiled
def order_ends(streams: Streams) -> None:
    """Brings the whole heap of ends into order."""
    size = streams.counts[ACTIVE]
    for place in range(size // 2 - 1, -1, -1):
        _sink_end(streams, place)


@compiled
def take_end(streams: Streams, index: int) -> None:
    """Takes a flow out of the heap of ends."""
    counts, place = streams.counts, np.int64(streams.place[index])
    counts[ACTIVE] -= 1
    last = streams.ends[counts[ACTIVE]]
    streams.place[index] = -1
    if last.flow != index:
        moved = np.int64(last.flow)
        _put(streams, place, last.empty_ps, moved)
        move_end(streams, moved)


@compiled
def move_end(streams: Streams, index: int) -> None:
    """Moves the entry of a flow to its place, up or down."""
    ends, place = streams.ends, np.int64(streams.place[index])
    empty_ps = ends[place].empty_ps
    while place > 0 and empty_ps < ends[(place - 1) >> 1].empty_ps:
        above = (place - 1) >> 1
        _put(streams, place, ends[above].empty_ps, np.int64(ends[above].flow))
        place = above
    _put(streams, place, empty_ps, index)
    _sink_end(streams, place)


@compiled
def _sink_end(streams: Streams, place: int) -> None:
    ends, size = streams.ends, streams.counts[ACTIVE]
    empty_ps, index = ends[place].empty_ps, np.int64(ends[place].flow)
    while 2 * place + 1 < size:
        below = 2 * place + 1
        if below + 1 < size and ends[below + 1].empty_ps < ends[below].empty_ps:
            below += 1
        if empty_ps <= ends[below].empty_ps:
            break
        _put(streams, place, ends[below].empty_ps, np.int64(ends[below].flow))
        place = below
    _put(streams, place, empty_ps, index)


@compiled
def _put(streams: Streams, place: Whole, empty_ps: float, index: int) -> None:
    entry = streams.ends[place]
    entry.empty_ps, entry.flow = empty_ps, index
    streams.place[index] = place
