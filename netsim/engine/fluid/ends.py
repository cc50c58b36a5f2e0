"""Heap of the active flows by when they have sent everything; each flow knows its place in it."""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.fluid.streams import ACTIVE, Streams


@compiled
def order_ends(streams: Streams) -> None:
    """Brings the whole heap of ends into order."""
    size = streams.counts[ACTIVE]
    for place in range(size // 2 - 1, -1, -1):
        _sink_end(streams, place)


@compiled
def take_end(streams: Streams, index: int) -> None:
    """Takes a flow out of the heap of ends."""
    counts, place = streams.counts, np.int64(streams.flows[index].place)
    counts[ACTIVE] -= 1
    last = np.int64(streams.ends[counts[ACTIVE]])
    if last != index:
        streams.ends[place] = last
        streams.flows[last].place = place
        move_end(streams, place)
    streams.flows[index].place = -1


@compiled
def move_end(streams: Streams, place: int) -> None:
    """Moves an entry of the heap of ends to its place, up or down."""
    ends, flows = streams.ends, streams.flows
    moved = ends[place]
    while place > 0 and flows[moved].empty_ps < flows[ends[(place - 1) >> 1]].empty_ps:
        above = (place - 1) >> 1
        ends[place] = ends[above]
        flows[ends[place]].place = place
        place = above
    ends[place] = moved
    flows[moved].place = place
    _sink_end(streams, place)


@compiled
def _sink_end(streams: Streams, place: int) -> None:
    ends, flows, size = streams.ends, streams.flows, streams.counts[ACTIVE]
    moved = ends[place]
    while 2 * place + 1 < size:
        below = 2 * place + 1
        if below + 1 < size and flows[ends[below + 1]].empty_ps < flows[ends[below]].empty_ps:
            below += 1
        if flows[moved].empty_ps <= flows[ends[below]].empty_ps:
            break
        ends[place] = ends[below]
        flows[ends[place]].place = place
        place = below
    ends[place] = moved
    flows[moved].place = place
