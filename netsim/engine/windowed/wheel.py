"""The calendar of the windowed engine: a wheel of buckets, each with the packets that arrive in one window and region.

Regions are those of `netsim.engine.windowed.regions`. Packets lie in chunks, which are chained. A bucket also serves
the windows that come a turn of the wheel later, whose packets go back into it.
"""

from typing import NamedTuple

import numpy as np

from netsim.engine.compiled.lines import zeros
from netsim.engine.compiled.prefetch import prefetch
from netsim.engine.event.calendar import END_PS, heap, longer_heap
from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Array, Queued, Record, State, Whole
from netsim.engine.windowed.records import ARRIVAL, BUCKET, INDEX, TIMER, UNIT, USED, VALUE, WINDOW
from netsim.engine.windowed.regions import region_of_units, regions_of
from netsim.engine.windowed.sorting import PLACES

CHUNK = 32
"""Packets of a chunk."""
WINDOWS, _BUCKETS = 1 << 14, 1 << 16
"""Windows of a turn of the wheel, but no more buckets than that."""
_CHUNKS, _ARRIVALS, _HELD = 256, 1024, 1024
"""Room at first."""


class Wheel(NamedTuple):
    """Calendar, packets and the open window.

    Args:
        window: One record of `WINDOW`.
        due: Packets in the buckets of a window; window k has entry k mod their number, a power of two.
        buckets: Records of `BUCKET`, by entry of `due` and region.
        region: Region of each unit.
        packets: Records of `VALUE`, in chunks.
        next_chunk: The chunk after each, in its bucket or among those that are free.
        used: Records of `USED`: of hosts, until the end of the window, and of the region of switches.
        found: Records of `ARRIVAL`: those of the window, as they were found, then scratch space.
        arrivals: The same by unit, and sorted once the unit deals with them.
        places: Whole numbers for sorting.
        receipts: Records of `ARRIVAL`, if the run ends while background traffic goes on: data at all receivers, sorted.
        units: Records of `UNIT`: links, then switches.
        touched: Units with arrivals in this window and region, and switches where transmissions end.
        woken: Switches where transmissions end in this window.
        active: Hosts' links with something to do in this window.
        pending: Units that have something to do on their own in a later window.
        timers: Records of `TIMER`; those that were in use are chained, and behind them are only fresh ones.
        inside: Heap of what happens at links inside hosts.
        ends: Heap of ends of transmissions in this window at a switch where their order matters.
        scratch: A record of `VALUE` for the packet that leaves a host.
        held: Records of `VALUE`: packets that wait in queues; `NOTES.packet` is the first free one.
        next_held: The free record after each.
    """

    window: Array
    due: Array
    buckets: Array
    region: Array
    packets: Array
    next_chunk: Array
    used: Array
    found: Array
    arrivals: Array
    places: Array
    receipts: Array
    units: Array
    touched: Array
    woken: Array
    active: Array
    pending: Array
    timers: Array
    inside: Array
    ends: Array
    scratch: Array
    held: Array
    next_held: Array


def wheel_of(state: State, length_ps: int, by_switch: bool) -> Wheel:
    """An empty wheel.

    Args:
        state: State of the run.
        length_ps: Length of a window.
        by_switch: Units are switches, not their links.
    """
    links, switches = len(state.network.links), int(state.routing.source.max()) + 1
    window = np.zeros(1, dtype=WINDOW)
    window["length_ps"], window["number"], window["by_switch"] = length_ps, -1, by_switch
    window["free_chunk"] = window["free_timer"] = -1
    window["regions"] = regions = regions_of(state)
    window["due_ps"], window["spare"] = END_PS, _most_chunks(state.queued, regions)
    due = np.zeros(min(WINDOWS, _BUCKETS // regions), dtype=INDEX)
    units = zeros(links + switches, UNIT)
    units["first_timer"] = -1
    units["at_host"][state.routing.up] = units["at_host"][state.routing.inside] = 1
    wheel = Wheel(
        window,
        due,
        np.full(len(due) * regions, -1, dtype=BUCKET),
        region_of_units(state, switches, regions),
        zeros(0, VALUE),
        np.zeros(0, dtype=INDEX),
        np.full(2, -1, dtype=USED),
        np.zeros(_ARRIVALS, dtype=ARRIVAL),
        np.zeros(_ARRIVALS, dtype=ARRIVAL),
        np.zeros(PLACES, dtype=np.int64),
        np.zeros(_ARRIVALS if state.network.rules["ends_early"][0] else 0, dtype=ARRIVAL),
        units,
        np.zeros(len(units), dtype=INDEX),
        np.zeros(switches, dtype=INDEX),
        np.zeros(links, dtype=INDEX),
        np.zeros(len(units), dtype=INDEX),
        np.zeros(0, dtype=TIMER),
        heap(2 * len(state.hosts.rings)),
        heap(0 if state.queued is None else links),
        zeros(1, VALUE),
        zeros(0, VALUE),
        np.zeros(0, dtype=INDEX),
    )
    return with_held(with_chunks(wheel, _CHUNKS), state.queued)


def _most_chunks(queued: Queued | None, regions: int) -> int:
    """How many chunks one event may begin to fill: that of a packet, and those of words to queues."""
    if queued is None:
        return 1
    return 2 + regions * len(np.unique(queued.served["news_ps"])) + len(queued.queues) // CHUNK


def with_held(wheel: Wheel, queued: Queued | None) -> Wheel:
    """The wheel with twice as many records for packets that wait in queues, if all are in use."""
    if queued is None or (len(wheel.held) and queued.notes["packet"][0] >= 0):
        return wheel
    used = len(wheel.held)
    size = max(_HELD, 2 * used)
    held, following = zeros(size, VALUE), np.arange(1, size + 1, dtype=INDEX)
    held[:used], following[:used], following[-1] = wheel.held, wheel.next_held, -1
    queued.notes["packet"] = used
    return wheel._replace(held=held, next_held=following)


def with_room(wheel: Wheel, queued: Queued | None) -> Wheel:
    """The wheel with room for the arrivals of its fullest window, and twice as much of what is scarce."""
    wheel, window, fullest = with_held(wheel, queued), wheel.window[0], int(wheel.due.max())
    spare, arrivals = int(window["spare"] + window["regions"]), int(window["arrivals"]) + fullest
    if arrivals > len(wheel.found):
        found, arrivals = (_longer(array, 3 * arrivals // 2) for array in (wheel.found, wheel.arrivals))
        wheel = wheel._replace(found=found, arrivals=arrivals)
        if len(wheel.receipts):
            wheel = wheel._replace(receipts=_longer(wheel.receipts, len(found)))
    if window["free_chunks"] <= fullest // CHUNK + spare:
        wheel = with_chunks(wheel, len(wheel.next_chunk) + fullest // CHUNK + spare)
    return wheel


def with_chunks(wheel: Wheel, more: int) -> Wheel:
    """The wheel with so many more chunks."""
    window, used = wheel.window[0], len(wheel.next_chunk)
    packets = zeros((used + more) * CHUNK, VALUE)
    packets[: len(wheel.packets)] = wheel.packets
    following = np.arange(used + 1, used + more + 1, dtype=INDEX)
    following[-1] = window["free_chunk"]
    window["free_chunk"] = used
    window["free_chunks"] += more
    return wheel._replace(packets=packets, next_chunk=np.concatenate([wheel.next_chunk, following]))


def with_timers(wheel: Wheel, timers: int, others: int) -> Wheel:
    """The wheel with room for so many timers, all of which may be those of flows inside hosts, among `others` there."""
    if timers <= len(wheel.timers):
        return wheel
    used = int(wheel.window["timers"][0])
    longer = np.zeros(timers, dtype=TIMER)
    longer[:used] = wheel.timers[:used]
    return wheel._replace(timers=longer, inside=longer_heap(wheel.inside, others + timers))


def _longer(array: np.ndarray, size: int) -> np.ndarray:
    longer = zeros(size, array.dtype)
    longer[: len(array)] = array
    return longer


@compiled
def due_at(wheel: Wheel, time_ps: int) -> Whole:
    """Index of what is due in the window of a moment."""
    number = np.uint64(time_ps) // np.uint64(wheel.window[0].length_ps)
    return np.int64(number & np.uint64(len(wheel.due) - 1))


@compiled
def due_now(wheel: Wheel) -> Whole:
    """Index of what is due in the open window."""
    return wheel.window[0].number & (len(wheel.due) - 1)


@compiled
def put(wheel: Wheel, packet: Record, unit: int, region: int, arrives: int) -> None:
    """Puts a packet into the wheel, which arrives in a region; there is a free chunk."""
    window, index = wheel.window[0], due_at(wheel, arrives)
    bucket = wheel.buckets[index * window.regions + region]
    fill = np.int64(bucket.fill)
    if bucket.first < 0 or fill == CHUNK:
        chunk = window.free_chunk
        window.free_chunk = wheel.next_chunk[chunk]
        window.free_chunks -= 1
        if bucket.first < 0:
            bucket.first = chunk
        else:
            wheel.next_chunk[bucket.last] = chunk
        bucket.last = chunk
        fill = np.int64(0)
    bucket.fill = fill + 1
    wheel.due[index] += 1
    window.in_flight += 1
    packet.time_ps, packet.unit = arrives, unit
    place = np.int64(bucket.last) * CHUNK + fill
    wheel.packets[place] = packet
    prefetch(wheel.packets, place + 1, 0)


@compiled
def use_chunks(wheel: Wheel, whose: int, first: int, last: int, chunks: int) -> None:
    """Notes that so many chunks, which are chained, hold packets that arrive in the window."""
    used = wheel.used[whose]
    if used.first < 0:
        used.first, used.chunks = first, 0
    else:
        wheel.next_chunk[used.last] = first
    used.last = last
    used.chunks += chunks


@compiled
def release_chunks(wheel: Wheel, whose: int) -> None:
    """Frees chunks whose packets have arrived in the window."""
    window, used = wheel.window[0], wheel.used[whose]
    if used.first >= 0:
        wheel.next_chunk[used.last] = window.free_chunk
        window.free_chunk = used.first
        window.free_chunks += used.chunks
        used.first = -1


@compiled
def lacks_room(wheel: Wheel, queued: Queued | None) -> bool:
    """Whether the packets and words of one event might not fit."""
    window = wheel.window[0]
    if queued is None:
        return window.free_chunks < window.spare
    return window.free_chunks < window.spare or queued.notes[0].packet < 0


@compiled
def lacks_room_for_arrivals(wheel: Wheel) -> bool:
    """Whether the arrivals of the next region might not fit, or those that arrive a turn of the wheel later."""
    window, fullest = wheel.window[0], wheel.due[due_now(wheel)]
    lacks_chunks = window.free_chunks <= fullest // CHUNK + window.spare + window.regions
    return lacks_chunks or window.arrivals + fullest > len(wheel.found)
