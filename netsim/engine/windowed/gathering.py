"""The packets that arrive in a window and region, taken out of the wheel and sorted by unit."""

import numpy as np

from netsim.engine.compiled.prefetch import prefetch
from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Record, State, Whole
from netsim.engine.event.transit import next_link
from netsim.engine.windowed.ahead import fetch_next_links, fetch_packets
from netsim.engine.windowed.regions import OF_HOSTS, OF_SWITCHES, is_of_hosts
from netsim.engine.windowed.wheel import CHUNK, Wheel, Wheels, bucket_row, put, returned_row, use_chunks


@compiled
def gather(state: State, wheels: Wheels, wheel: Wheel) -> None:
    """Takes the packets that arrive in the open window and region out of their buckets, and sorts them by unit.

    The thread's own bucket comes first: what arrives later goes back into it.
    """
    window, touched, found = wheel.window[0], np.int64(0), np.int64(0)
    row = bucket_row(wheel)
    for turn in range(window.threads):
        thread = (window.thread + turn) % window.threads
        found, touched = _empty(state, wheel, wheels.buckets[thread, row], thread, found, touched)
    _deal(wheel, found, touched)


@compiled
def _empty(
    state: State, wheel: Wheel, bucket: Record, thread: int, found: Whole, touched: Whole
) -> tuple[Whole, Whole]:
    """Empties the bucket of a thread; returns the arrivals of the region, and units with arrivals, so far."""
    window = wheel.window[0]
    left, chunks, first, last = np.int64(bucket.packets), np.int64(0), np.int64(bucket.first), np.int64(bucket.last)
    if not left:
        return found, touched
    chunk, bucket.packets = first, 0
    window.in_flight -= left
    fetch_next_links(state, wheel, first, left)
    while left:
        chunks += 1
        size = min(left, np.int64(CHUNK))
        left -= size
        following = np.int64(wheel.next_chunk[chunk]) if left else np.int64(-1)
        if left:
            fetch_next_links(state, wheel, following, left)
        if left > CHUNK:
            fetch_packets(wheel, np.int64(wheel.next_chunk[following]), left - CHUNK)
        before, found = found, _find(state, wheel, chunk, size, found)
        touched = _count(wheel, before, found, touched)
        chunk = following
    whose = OF_HOSTS if is_of_hosts(window, window.region) else OF_SWITCHES
    used = wheel.used[whose]
    if thread != window.thread:
        used = wheel.returned[returned_row(window, whose, thread)]
    use_chunks(wheel, used, first, last, chunks)
    return found, touched


@compiled
def _find(state: State, wheel: Wheel, chunk: int, size: int, found: Whole) -> Whole:
    """Notes where the packets of a chunk arrive; returns how many arrivals there are with them."""
    window = wheel.window[0]
    for place in range(chunk * CHUNK, chunk * CHUNK + size):
        packet = wheel.packets[place]
        if packet.time_ps >= window.end_ps:
            put(wheel, packet, packet.unit, window.region, packet.time_ps)
            continue
        index = np.int64(packet.unit) if packet.unit >= 0 else next_link(state, packet, packet.time_ps)
        prefetch(wheel.units, index, 0)
        arrival = wheel.found[found]
        arrival.time_ps, arrival.key, arrival.place, arrival.unit = packet.time_ps, packet.key, place, index
        found += 1
    return found


@compiled
def _count(wheel: Wheel, begin: int, end: int, touched: Whole) -> Whole:
    """Counts the arrivals of some rows at their units; returns how many units have arrivals with them.

    A processor cannot foretell which unit has none yet, so that each is written down, and the next one in its place.
    """
    for place in range(begin, end):
        index = np.int64(wheel.found[place].unit)
        unit = wheel.units[index]
        wheel.touched[touched] = index
        touched += np.int64(unit.end == 0)
        unit.end += 1
    return touched


@compiled
def _deal(wheel: Wheel, found: Whole, touched: Whole) -> None:
    """Gives each unit the rows of its arrivals."""
    window, units, row = wheel.window[0], wheel.units, np.int64(wheel.window[0].arrivals)
    window.touched = touched
    window.arrivals += found
    for place in range(touched):
        unit = units[wheel.touched[place]]
        row += unit.end
        unit.begin = unit.end = row - unit.end
    for place in range(found):
        unit = units[wheel.found[place].unit]
        wheel.arrivals[unit.end] = wheel.found[place]
        unit.end += 1
