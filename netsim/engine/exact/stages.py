"""Serves links one after the other, each when all links that feed it are done: sorts arrivals, computes departures.

A packet leaves at max(its arrival, the departure before it) + its service time (D. V. Lindley: The theory of queues
with a single server, 1952).
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.engine.compiled.annotations import Integer, Record, Records
from netsim.engine.compiled.fabric import FabricArrays
from netsim.engine.compiled.queue_series import Longest, note_queue
from netsim.engine.compiled.service import nominal_ps, rate_step, service_ps
from netsim.engine.exact.sorting import room_for, sort

RECEIVER = np.dtype([(name, np.int64) for name in ("exit", "highest", "end_ps", "reordered")])
"""A flow at its receiver.

Last link of its paths; highest number of a packet that has arrived; latest arrival; packets that arrived after one with
a higher number.
"""


class Packets(NamedTuple):
    """Packets by their tags: number of the packet << `bits` | entry of `steps` that is its next link.

    Packets are numbered by (flow, place in the flow).
    """

    bits: int  # enough for the entries of `steps`
    steps: np.ndarray  # links of all ways, see `netsim.engine.exact.layout.Layout`
    flow: np.ndarray  # flow of each packet
    size_bytes: np.ndarray  # bytes on the wire of each packet; empty if all have `full_bytes`
    full_bytes: int  # a full packet on the wire


class Arrivals(NamedTuple):
    """Packets at links, link by link; the segment of each link fills up before the link is served."""

    begin: np.ndarray  # begin of each link, and the end of the last
    fill: np.ndarray  # first free entry of each link
    time_ps: np.ndarray  # when a packet arrives
    tag: np.ndarray  # its tag


@njit(cache=True)
def serve(
    fabric: FabricArrays,
    links: np.ndarray,
    here: Arrivals,
    there: Arrivals,
    packets: Packets,
    receivers: Records,
    record: Records,
    longest: Longest,
) -> None:
    """Serves links in order, all that feed one of them before it; fills in `there`, `record` and `longest`."""
    room = room_for(here.begin)
    entry, uniform = (1 << packets.bits) - 1, not len(packets.size_bytes)
    since_ps = np.full(len(fabric.rate_bps), -1, dtype=np.int64)
    for link in links:
        time_ps = here.time_ps[here.begin[link] : here.begin[link + 1]]
        tags = here.tag[here.begin[link] : here.begin[link + 1]]
        sort(time_ps, tags, room)
        at_switch, delay_ps = fabric.at_switch[link] != 0, fabric.delay_ps[link]
        change, nominal_bps = fabric.change_begin[link], fabric.nominal_bps[link]
        rows = change, fabric.change_begin[link + 1]
        varies = rows[1] - rows[0] > 1 or fabric.rate_bps[change] != nominal_bps
        full_ps = service_ps(packets.full_bytes, max(1, fabric.rate_bps[change]))
        free = total_bytes = busy = peak = np.int64(0)
        for place in range(len(time_ps)):
            now, tag = time_ps[place], tags[place]
            begin = max(now, free)
            if rate_step(fabric, link, change, begin) != change:
                change = rate_step(fabric, link, change, begin)
                full_ps = service_ps(packets.full_bytes, fabric.rate_bps[change])
            size_bytes, service = packets.full_bytes, full_ps
            if not uniform:
                size_bytes = packets.size_bytes[tag >> packets.bits]
                if size_bytes != packets.full_bytes:
                    service = service_ps(size_bytes, fabric.rate_bps[change])
            free = begin + service
            total_bytes += size_bytes
            busy += service
            queue = free - now
            if varies:
                if since_ps[change] < 0:
                    since_ps[change] = begin
                queue = nominal_ps(fabric.rate_bps, since_ps, rows, nominal_bps, now, free)
            peak = max(peak, queue)
            if at_switch:
                note_queue(longest, now, free - now)
            following = packets.steps[tag & entry]
            if following >= 0:
                tag += 1
            else:
                number = tag >> packets.bits
                receiver = receivers[packets.flow[number]]
                following = receiver.exit
                if following == link:
                    _receive(receiver, number, free + delay_ps)
                    continue
            there.time_ps[there.fill[following]] = free + delay_ps
            there.tag[there.fill[following]] = tag
            there.fill[following] += 1
        record[link].bytes, record[link].busy_ps, record[link].max_queue_ps = total_bytes, busy, peak


@njit(cache=True)
def _receive(receiver: Record, number: Integer, arrives_ps: Integer) -> None:
    """A packet has passed its last link."""
    if number < receiver.highest:
        receiver.reordered += 1
    else:
        receiver.highest = number
    receiver.end_ps = max(receiver.end_ps, arrives_ps)


@njit(cache=True)
def remaining_ps(
    fabric: FabricArrays, rate_bps: np.ndarray, packets: Packets, receivers: Records, link: np.ndarray, tag: np.ndarray
) -> np.ndarray:
    """Remaining time of a packet that has left its host, without queues."""
    rest_ps = np.empty(len(link), dtype=np.int64)
    for place in range(len(link)):
        number, step = tag[place] >> packets.bits, tag[place] & ((1 << packets.bits) - 1)
        leaves = receivers[packets.flow[number]].exit
        size_bytes = packets.size_bytes[number] if len(packets.size_bytes) else packets.full_bytes
        following = link[place]
        rest_ps[place] = fabric.delay_ps[following]
        while following != leaves:
            following = packets.steps[step] if packets.steps[step] >= 0 else leaves
            step += 1
            rest_ps[place] += service_ps(size_bytes, rate_bps[following]) + fabric.delay_ps[following]
    return rest_ps
