"""Which links a flow passes, and which flows pass a link."""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Record, Whole
from netsim.engine.fluid.streams import BETWEEN, FIRST, LAST, Streams


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
def after(streams: Streams, index: int, number: int) -> Whole:
    """The next flow of a host's link."""
    flow = streams.flows[index]
    return np.int64(flow.following[FIRST] if flow.up == number else flow.following[LAST])


@compiled
def link_in(streams: Streams, index: int) -> None:
    """Puts a flow first among those of its links and of its segment."""
    flow = streams.flows[index]
    for column in range(3 if flow.down >= 0 else 1):
        first = np.int64(-1)
        if column == BETWEEN:
            first = np.int64(streams.segment_first[flow.segment])
            streams.segment_first[flow.segment] = index
        else:
            link = streams.links[flow.up if column == FIRST else flow.down]
            first = np.int64(link.first)
            link.first = index
        flow.following[column], flow.ahead[column] = first, -1
        if first >= 0:
            streams.flows[first].ahead[column] = index
    for row in range(links_of(streams, flow)):
        number, _ = link_of(streams, flow, row)
        streams.links[number].flows += 1


@compiled
def link_out(streams: Streams, index: int) -> None:
    flow = streams.flows[index]
    for column in range(3 if flow.down >= 0 else 1):
        following, ahead = np.int64(flow.following[column]), np.int64(flow.ahead[column])
        if following >= 0:
            streams.flows[following].ahead[column] = ahead
        if ahead >= 0:
            streams.flows[ahead].following[column] = following
        elif column == BETWEEN:
            streams.segment_first[flow.segment] = following
        else:
            streams.links[flow.up if column == FIRST else flow.down].first = following
