"""Which links a flow passes, and which flows pass a link."""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Record, Whole
from netsim.engine.fluid.streams import BLOCK, BLOCKS, SPARE, Streams


@compiled
def links_of(streams: Streams, flow: Record) -> Whole:
    """Number of links that a flow passes, those of all its ways counted."""
    if flow.down < 0:
        return np.int64(1)
    return 2 + streams.segment_begin[flow.segment + 1] - streams.segment_begin[flow.segment]


@compiled
def link_of(streams: Streams, flow: Record, row: int) -> tuple[Whole, float]:
    """A link of a flow, and the share of its bytes that pass it."""
    if row == 0:
        return np.int64(flow.up), 1.0
    if row == 1:
        return np.int64(flow.down), 1.0
    place = streams.segment_begin[flow.segment] + row - 2
    return np.int64(streams.link[place]), streams.share[place]


@compiled
def earlier(streams: Streams, place: int) -> Whole:
    """The place in `Streams.passing` of the flow of the same link that was put there before, -1 if there is none."""
    if (place - 1) % BLOCK:
        return np.int64(place - 1)
    block = np.int64(streams.passing[place - 1])
    return (block + 1) * BLOCK - 1 if block >= 0 else np.int64(-1)


@compiled
def link_in(streams: Streams, index: int) -> None:
    """Puts a flow among those of its links and of its segment."""
    flow = streams.flows[index]
    flow.up_place = _append(streams, flow.up, index)
    if flow.down >= 0:
        flow.down_place = _append(streams, flow.down, index)
        flow.following = streams.segment_first[flow.segment]
        streams.segment_first[flow.segment] = index
        streams.messages[index].ahead = -1
        if flow.following >= 0:
            streams.messages[flow.following].ahead = index
    for row in range(links_of(streams, flow)):
        number, _ = link_of(streams, flow, row)
        streams.links[number].flows += 1


@compiled
def link_out(streams: Streams, index: int) -> None:
    """Takes a flow out again."""
    flow = streams.flows[index]
    _remove(streams, flow.up, flow.up_place)
    if flow.down >= 0:
        _remove(streams, flow.down, flow.down_place)
        ahead = np.int64(streams.messages[index].ahead)
        if flow.following >= 0:
            streams.messages[flow.following].ahead = ahead
        if ahead >= 0:
            streams.flows[ahead].following = flow.following
        else:
            streams.segment_first[flow.segment] = flow.following
    for row in range(links_of(streams, flow)):
        number, _ = link_of(streams, flow, row)
        streams.links[number].flows -= 1


@compiled
def _append(streams: Streams, number: int, index: int) -> Whole:
    """Puts a flow behind those of a host's link and returns its place."""
    counts, link = streams.counts, streams.links[number]
    place = np.int64(link.latest) + 1
    if place % BLOCK == 0:
        block = counts[SPARE]
        if block < 0:
            block = counts[BLOCKS]
            counts[BLOCKS] += 1
        else:
            counts[SPARE] = streams.passing[block * BLOCK]
        streams.passing[block * BLOCK] = np.int64(link.latest) // BLOCK
        place = block * BLOCK + 1
    streams.passing[place] = index
    link.latest = place
    return place


@compiled
def _remove(streams: Streams, number: int, place: int) -> None:
    """Takes the flow at a place out of those of a host's link; the latest one gets its place."""
    counts, link = streams.counts, streams.links[number]
    latest, moved = np.int64(link.latest), np.int64(streams.passing[link.latest])
    streams.passing[place] = moved
    if streams.flows[moved].up == number:
        streams.flows[moved].up_place = place
    else:
        streams.flows[moved].down_place = place
    link.latest = earlier(streams, latest)
    if latest % BLOCK == 1:
        streams.passing[latest - 1] = counts[SPARE]
        counts[SPARE] = latest // BLOCK
