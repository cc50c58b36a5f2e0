"""Progressive filling of the compiled flow-level engine: next rates of the affected flows, all others keeping theirs.

The level at which a link is full only rises while others settle, so a heap of levels that are brought up to date when
they come up finds the next full link. The affected flows of a link are lined up first, so that a full link meets them
alone and not all of its flows.
"""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Record, Whole
from netsim.engine.fluid.passages import link_of, links_of
from netsim.engine.fluid.streams import AFFECTED, BETWEEN, FIRST, LAST, MARK, Streams

_EQUAL = 1 + 1e-12


@compiled
def fill(streams: Streams, known: int, touched: int) -> Whole:
    """Sets the next rates of the affected flows, `known` of them filled before; returns how many links they touch."""
    counts, links = streams.counts, streams.links
    if not known:
        counts[MARK] += 1
    for place in range(known, counts[AFFECTED]):
        flow = streams.affected[place]
        for row in range(links_of(streams, flow)):
            number, share = link_of(streams, flow, row)
            link = links[number]
            if link.mark != counts[MARK]:
                link.mark = counts[MARK]
                link.kept, link.asked, link.affected, link.newest = link.load, 0.0, 0, -1
                streams.touched[touched] = number
                touched += 1
            link.kept -= share * flow.rate
            link.asked += share
            link.affected += 1
        _line_up(streams, place)
    for place in range(counts[AFFECTED]):
        streams.affected[place].fresh = -1.0
    for place in range(touched):
        link = links[streams.touched[place]]
        link.taken, link.demand, link.rising, link.fastest = link.kept, link.asked, link.affected, 0.0
        if link.rising == link.flows:
            link.taken = link.most = 0.0
        link.level = _full_at(link)
        _put(streams, place, link.level, np.int64(streams.touched[place]))
    size, left = touched, np.int64(counts[AFFECTED])
    for place in range(size // 2 - 1, -1, -1):
        _sift_link(streams, place, size)
    while left and size:
        number = np.int64(streams.heap[0].link)
        link = links[number]
        level = _full_at(link)
        if level > link.level * _EQUAL and link.rising:
            link.level = streams.heap[0].level = level
        else:
            left -= _hold_back(streams, number, level)
            size -= 1
            last = streams.heap[size]
            _put(streams, np.int64(0), last.level, np.int64(last.link))
        _sift_link(streams, np.int64(0), size)
    for place in range(size):
        links[streams.heap[place].link].level = np.inf
    return touched


@compiled
def disperse(streams: Streams) -> None:
    """The affected flows no longer stand in line."""
    for place in range(streams.counts[AFFECTED]):
        flow = streams.affected[place]
        if flow.down >= 0:
            streams.segment_newest[flow.segment] = -1


@compiled
def _full_at(link: Record) -> float:
    """Rate of the rising flows at which a link is full, infinite if it has none."""
    return max(0.0, (link.capacity - link.taken) / link.demand) if link.rising else np.inf


@compiled
def _line_up(streams: Streams, place: int) -> None:
    """Puts an affected flow first among those of its links and of its segment."""
    flow = streams.affected[place]
    up = streams.links[flow.up]
    flow.beside[FIRST], up.newest = up.newest, place
    if flow.down >= 0:
        flow.beside[BETWEEN] = streams.segment_newest[flow.segment]
        streams.segment_newest[flow.segment] = place
        down = streams.links[flow.down]
        flow.beside[LAST], down.newest = down.newest, place


@compiled
def _hold_back(streams: Streams, number: int, level: float) -> Whole:
    """A link is full: its rising flows keep this rate. Returns how many there were."""
    link = streams.links[number]
    rising = np.int64(link.rising)
    link.level = level if rising else np.inf
    if link.at_host:
        place = np.int64(link.newest)
        while place >= 0 and link.rising:
            flow = streams.affected[place]
            _keep(streams, flow, number, level)
            place = np.int64(flow.beside[FIRST if flow.up == number else LAST])
        return rising
    for row in range(streams.link_begin[number], streams.link_begin[number + 1]):
        if not link.rising:
            break
        place = np.int64(streams.segment_newest[streams.segment[row]])
        while place >= 0 and link.rising:
            flow = streams.affected[place]
            _keep(streams, flow, number, level)
            place = np.int64(flow.beside[BETWEEN])
    return rising


@compiled
def _keep(streams: Streams, flow: Record, number: int, level: float) -> None:
    if flow.fresh >= 0:
        return
    flow.fresh, flow.bottleneck = level, number
    for row in range(links_of(streams, flow)):
        passed, share = link_of(streams, flow, row)
        link = streams.links[passed]
        link.rising -= 1
        link.demand -= share
        link.taken += share * level
        link.fastest = max(link.fastest, level)


@compiled
def _sift_link(streams: Streams, place: int, size: int) -> None:
    heap = streams.heap
    level, number = heap[place].level, np.int64(heap[place].link)
    while 2 * place + 1 < size:
        below = 2 * place + 1
        if below + 1 < size and heap[below + 1].level < heap[below].level:
            below += 1
        if level <= heap[below].level:
            break
        _put(streams, place, heap[below].level, np.int64(heap[below].link))
        place = below
    _put(streams, place, level, number)


@compiled
def _put(streams: Streams, place: Whole, level: float, number: int) -> None:
    entry = streams.heap[place]
    entry.level, entry.link = level, number
