"""Max-min fair rates, where flows have come or gone: compiled, and only as far as the change reaches.

The rates of the affected flows rise together until a link is full, which settles the flows on it (progressive filling;
Bertsekas, Gallager: Data Networks, 6.5.2), while all other flows keep theirs. Then every link whose load has changed is
looked at: a flow there that is faster than those the link holds back, or that has lost the full link that held it
back, is affected too, and filling begins again. When none is left, each flow has a full link on which no flow is
faster, which is the condition for rates to be max-min fair.
"""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Record, Whole
from netsim.engine.fluid.ends import add_end, bring_forward, take_first_end
from netsim.engine.fluid.levels import disperse, fill
from netsim.engine.fluid.passages import earlier, link_in, link_of, link_out, links_of
from netsim.engine.fluid.streams import AFFECTED, ALLOCATIONS, LEFT, Streams

TOLERANCE = 1e-9
"""Relative, of loads and of rates."""
_FEW = 16
"""Flows of a link above which a newcomer's turn is not looked at: it changes little, and each of them would be."""


@compiled
def join(streams: Streams, index: int) -> None:
    """Makes a flow active, and its rate to be settled."""
    flow = streams.flows[index]
    link_in(streams, index)
    flow.rate = 0.0
    flow.bottleneck = -1
    add_end(streams, index)
    _affect(streams, index)


@compiled
def wait_for_turn(streams: Streams, index: int, packet_bytes: int, now_ps: int) -> None:
    """A flow that finds others at work on its first link sends its first packet after one of each of them.

    Each of n others is ahead by a packet's 1/(n + 1) of what even sharing would give it; the newcomer is behind by the
    sum. Without this, messages of a rank that once overlap end in the same instant, start together at the next rank,
    and never come apart again, whereas packets part them by one packet at every rank.
    """
    newcomer = streams.flows[index]
    link = streams.links[newcomer.up]
    if link.flows < 2 or link.flows > _FEW:
        return
    others = 0
    for gives in (False, True):
        place = earlier(streams, newcomer.up_place)
        while place >= 0:
            other = np.int64(streams.passing[place])
            flow = streams.flows[other]
            if flow.bottleneck == newcomer.up or streams.messages[other].start_ps == now_ps:
                if gives:
                    flow.left = max(0.0, flow.left - flow.rate * (now_ps - flow.since_ps))
                    flow.since_ps = now_ps
                    ahead = min(flow.left, packet_bytes / (others + 1))
                    flow.left -= ahead
                    newcomer.left += ahead
                    _affect(streams, other)
                else:
                    others += 1
            place = earlier(streams, place)


@compiled
def take_first(streams: Streams) -> Whole:
    """Takes the first flow that has sent everything off its links; the flows that they held back are affected."""
    index = take_first_end(streams)
    flow = streams.flows[index]
    link_out(streams, index)
    if flow.mark:
        streams.counts[LEFT] = 1
    else:
        streams.links[flow.bottleneck].held -= 1
    flow.bottleneck = -1
    for row in range(links_of(streams, flow)):
        number, share = link_of(streams, flow, row)
        link = streams.links[number]
        if link.held and link.load >= link.capacity * (1 - TOLERANCE):
            _affect_held(streams, number)
        link.load = link.load - share * flow.rate if link.flows else 0.0
    return index


@compiled
def settle(streams: Streams, now_ps: int) -> bool:
    """Settles the rates of the affected flows and of all that they reach; False if a rate is not max-min fair."""
    counts, known, touched = streams.counts, np.int64(0), np.int64(0)
    _forget_absent(streams)
    if not counts[AFFECTED]:
        return True
    while known < counts[AFFECTED]:
        touched = fill(streams, known, touched)
        known = counts[AFFECTED]
        _look_around(streams, touched)
    disperse(streams)
    fair = True
    for place in range(touched):
        link = streams.links[streams.touched[place]]
        link.load = link.taken
        link.most = max(link.most, link.fastest)
        fair &= link.load <= link.capacity * (1 + TOLERANCE)
    for place in range(counts[AFFECTED]):
        rising = streams.affected[place]
        flow, link = streams.flows[rising.flow], streams.links[rising.bottleneck]
        flow.mark, flow.bottleneck = 0, rising.bottleneck
        link.least = min(link.least, rising.fresh) if link.held else rising.fresh
        link.held += 1
        fair &= link.load >= link.capacity * (1 - TOLERANCE) and link.fastest <= rising.fresh * (1 + TOLERANCE)
        if rising.fresh != flow.rate or flow.since_ps == now_ps:
            flow.left = max(0.0, flow.left - flow.rate * (now_ps - flow.since_ps))
            flow.rate, flow.since_ps = rising.fresh, now_ps
            bring_forward(streams, np.int64(rising.flow))
    counts[AFFECTED] = 0
    counts[ALLOCATIONS] += 1
    return fair


@compiled
def _forget_absent(streams: Streams) -> None:
    """Takes flows that have left since out of the affected ones."""
    counts, kept = streams.counts, 0
    if not counts[LEFT]:
        return
    for place in range(counts[AFFECTED]):
        if streams.place[streams.affected[place].flow] >= 0:
            streams.affected[kept] = streams.affected[place]
            kept += 1
    counts[AFFECTED], counts[LEFT] = kept, 0


@compiled
def _look_around(streams: Streams, touched: int) -> None:
    """Affects flows that the next rates of the affected ones concern."""
    for place in range(touched):
        number = np.int64(streams.touched[place])
        link = streams.links[number]
        full = link.capacity * (1 - TOLERANCE)
        is_full = link.taken >= full
        if (link.load < full and not is_full) or not _concerns(link, is_full):
            continue
        most = 0.0
        if link.at_host:
            place = np.int64(link.latest)
            while place >= 0:
                most = max(most, _look_at(streams, np.int64(streams.passing[place]), number, is_full))
                place = earlier(streams, place)
        else:
            for row in range(streams.link_begin[number], streams.link_begin[number + 1]):
                index = np.int64(streams.segment_first[streams.segment[row]])
                while index >= 0:
                    most = max(most, _look_at(streams, index, number, is_full))
                    index = np.int64(streams.flows[index].following)
        link.most = most


@compiled
def _concerns(link: Record, is_full: bool) -> bool:
    """Whether the next rates on a link may concern a flow there that is not affected: its bounds, without its flows."""
    holds_back = is_full and link.level >= 0 and link.level < np.inf
    too_fast = holds_back and link.most > link.level * (1 + TOLERANCE)
    freed = link.held > 0 and (not is_full or link.fastest > link.least * (1 + TOLERANCE))
    return too_fast or freed


@compiled
def _look_at(streams: Streams, index: int, number: int, is_full: bool) -> float:
    """Affects a flow of a link that is faster than those held back there, or that is no longer held back there.

    Returns:
        Its rate if it is not affected, 0 otherwise.
    """
    flow, link = streams.flows[index], streams.links[number]
    if flow.mark:
        return 0.0
    holds_back = is_full and link.level >= 0 and link.level < np.inf
    too_fast = holds_back and flow.rate > link.level * (1 + TOLERANCE)
    freed = flow.bottleneck == number and (not is_full or link.fastest > flow.rate * (1 + TOLERANCE))
    if too_fast or freed:
        _affect(streams, index)
        return 0.0
    return flow.rate


@compiled
def _affect(streams: Streams, index: int) -> None:
    flow = streams.flows[index]
    if not flow.mark:
        flow.mark = 1
        if flow.bottleneck >= 0:
            streams.links[flow.bottleneck].held -= 1
        rising = streams.affected[streams.counts[AFFECTED]]
        rising.flow, rising.rate = index, flow.rate
        rising.up, rising.segment, rising.down = flow.up, flow.segment, flow.down
        streams.counts[AFFECTED] += 1


@compiled
def _affect_held(streams: Streams, number: int) -> None:
    """Affects the flows that a link holds back."""
    link = streams.links[number]
    if link.at_host:
        place = np.int64(link.latest)
        while place >= 0:
            index = np.int64(streams.passing[place])
            if streams.flows[index].bottleneck == number:
                _affect(streams, index)
            place = earlier(streams, place)
        return
    for row in range(streams.link_begin[number], streams.link_begin[number + 1]):
        index = np.int64(streams.segment_first[streams.segment[row]])
        while index >= 0:
            if streams.flows[index].bottleneck == number:
                _affect(streams, index)
            index = np.int64(streams.flows[index].following)
