"""The calendar of the windowed engine: a wheel of buckets, each with the packets that arrive in one window and region.

A region is a part of the fabric, switches or hosts, whose links and packets of a window fit into the processor's cache
together: the loop deals with one region after the other. Packets lie in chunks, which are chained. A bucket also serves
the windows that come a turn of the wheel later, whose packets go back into it.
"""

from typing import NamedTuple

import numpy as np

from netsim.engine.compiled.lines import zeros
from netsim.engine.compiled.prefetch import prefetch
from netsim.engine.event.calendar import heap, longer_heap
from netsim.engine.event.compiled import compiled
from netsim.engine.event.records import PACKET
from netsim.engine.event.state import Array, Record, State, Whole

CHUNK = 32
"""Packets of a chunk."""
WINDOWS, _BUCKETS = 1 << 14, 1 << 16
"""Windows of a turn of the wheel, but no more buckets than that."""
LINKS_OF_REGION, _MOST_REGIONS = 512, 256
"""Links of a region, at least; regions."""
_CHUNKS, _ARRIVALS = 256, 1024
"""Room at first."""

_INDEX, _WHOLE, _YES = np.int32, np.int64, np.uint8
_VALUE = {name: PACKET[name] for name in PACKET.names or () if name not in ("next", "previous")}
VALUE = np.dtype(
    sorted([*_VALUE.items(), ("unit", np.dtype(_INDEX))], key=lambda field: -field[1].itemsize), align=True
)
"""A packet by value: the fields of `PACKET`, and the unit at which it arrives, or -1; see `passage`."""

ARRIVAL = np.dtype([("time_ps", _WHOLE), ("key", _WHOLE), ("place", _INDEX), ("unit", _INDEX)])
"""An arrival of the window: its time, its order within that instant, and the packet's place in `Wheel.packets`."""

BUCKET = np.dtype([(name, _INDEX) for name in ("first", "last", "fill")])
"""First and last chunk, and packets in the last one."""

DUE = np.dtype([(name, _INDEX) for name in ("packets", "first_look")])
"""What a window is for: packets in its buckets, and the first of the links that look for one."""

UNIT = np.dtype([(name, _INDEX) for name in ("begin", "end", "first_timer", "active")])
"""A unit of the simulation: rows of its arrivals in this window; of a host's link also its timers."""

TIMER = np.dtype([("time_ps", _WHOLE), ("key", _WHOLE), ("flow", _INDEX), ("next", _INDEX)], align=True)
"""A timer of a flow that runs out in this window."""

WINDOW = np.dtype(
    [
        *((name, _WHOLE) for name in ("length_ps", "end_ps", "number", "now_ps", "in_flight", "looks")),
        *(
            (name, _INDEX)
            for name in (
                "stage",
                "region",
                "regions",
                "place",
                "touched",
                "arrivals",
                "active",
                "first_used",
                "last_used",
                "chunks_used",
            )
        ),
        *((name, _INDEX) for name in ("free_chunk", "free_chunks", "free_timer", "timers", "by_switch")),
    ],
    align=True,
)
"""The window: its length, its end and its number; the last instant in which tasks began; packets in the wheel and links
in it that look for one; how far the loop is (see `netsim.engine.windowed.kernel`); chunks in use, and free."""

NEXT, OPEN, UNITS, TASKS, REST = range(5)
"""Stages of a window: none is open; one is; units deal with their arrivals; tasks begin; hosts do what is left."""


class Wheel(NamedTuple):
    """Calendar, packets and the open window.

    Args:
        window: One record of `WINDOW`.
        due: Records of `DUE`; window k has record k mod their number, a power of two.
        buckets: Records of `BUCKET`, by record of `due` and region.
        region: Region of each unit.
        packets: Records of `VALUE`, in chunks.
        next_chunk: The chunk after each, in its bucket or among those that are free.
        next_look: The link after each of those that look for a packet in one window.
        found: Records of `ARRIVAL`: those of the window, as they were found, then scratch space.
        arrivals: The same by unit, and sorted once the unit deals with them.
        units: Records of `UNIT`: links, then switches.
        touched: Units with arrivals in this window.
        active: Hosts' links with something to do in this window.
        timers: Records of `TIMER`; those that were in use are chained, and behind them are only fresh ones.
        inside: Heap of what happens at links inside hosts.
        scratch: A record of `VALUE` for the packet that leaves a host.
    """

    window: Array
    due: Array
    buckets: Array
    region: Array
    packets: Array
    next_chunk: Array
    next_look: Array
    found: Array
    arrivals: Array
    units: Array
    touched: Array
    active: Array
    timers: Array
    inside: Array
    scratch: Array


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
    window["free_chunk"] = window["free_timer"] = window["first_used"] = -1
    regions = _regions(links)
    window["regions"] = regions
    due = np.zeros(min(WINDOWS, _BUCKETS // regions), dtype=DUE)
    due["first_look"] = -1
    units = np.zeros(links + switches, dtype=UNIT)
    units["first_timer"] = -1
    wheel = Wheel(
        window,
        due,
        np.full(len(due) * regions, -1, dtype=BUCKET),
        _region(state, switches, regions // 2),
        zeros(0, VALUE),
        np.zeros(0, dtype=_INDEX),
        np.full(links, -1, dtype=_INDEX),
        np.zeros(_ARRIVALS, dtype=ARRIVAL),
        np.zeros(_ARRIVALS, dtype=ARRIVAL),
        units,
        np.zeros(len(units), dtype=_INDEX),
        np.zeros(links, dtype=_INDEX),
        np.zeros(0, dtype=TIMER),
        heap(links),
        zeros(1, VALUE),
    )
    return with_chunks(wheel, _CHUNKS)


def _regions(links: int) -> int:
    """Number of regions, a power of two: half are of switches and half of hosts, or there is only one."""
    return 1 << max(1, min(links // LINKS_OF_REGION, _MOST_REGIONS)).bit_length() - 1


def _region(state: State, nodes: int, half: int) -> np.ndarray:
    """Region of each unit."""
    links, routing = state.network.links, state.routing
    of_node, switches = np.zeros(nodes, dtype=np.int16), np.unique(routing.source[links["at_switch"] > 0])
    of_node[switches] = np.arange(len(switches)) * half // max(1, len(switches))
    region, hosts = np.concatenate([of_node[routing.source], of_node]), np.arange(len(routing.up))
    region[routing.up] = region[routing.inside] = half + hosts * half // len(hosts)
    return region


def with_room(wheel: Wheel) -> Wheel:
    """The wheel with room for the arrivals of its fullest window, and with twice as many chunks if few are free."""
    window, fullest = wheel.window[0], int(wheel.due["packets"].max())
    regions, arrivals = int(window["regions"]), int(window["arrivals"]) + fullest
    if arrivals > len(wheel.found):
        found, arrivals = (_longer(array, 3 * arrivals // 2) for array in (wheel.found, wheel.arrivals))
        wheel = wheel._replace(found=found, arrivals=arrivals)
    if window["free_chunks"] <= fullest // CHUNK + regions:
        wheel = with_chunks(wheel, len(wheel.next_chunk) + fullest // CHUNK + regions)
    return wheel


def with_chunks(wheel: Wheel, more: int) -> Wheel:
    """The wheel with so many more chunks."""
    window, used = wheel.window[0], len(wheel.next_chunk)
    packets = zeros((used + more) * CHUNK, VALUE)
    packets[: len(wheel.packets)] = wheel.packets
    following = np.arange(used + 1, used + more + 1, dtype=_INDEX)
    following[-1] = window["free_chunk"]
    window["free_chunk"] = used
    window["free_chunks"] += more
    return wheel._replace(packets=packets, next_chunk=np.concatenate([wheel.next_chunk, following]))


def with_timers(wheel: Wheel, timers: int) -> Wheel:
    """The wheel with room for at least so many timers, all of which may be those of flows inside hosts."""
    if timers <= len(wheel.timers):
        return wheel
    used = int(wheel.window["timers"][0])
    longer = np.zeros(timers, dtype=TIMER)
    longer[:used] = wheel.timers[:used]
    looks = len(wheel.next_look)
    return wheel._replace(timers=longer, inside=longer_heap(wheel.inside, looks + timers))


def _longer(array: np.ndarray, size: int) -> np.ndarray:
    longer = np.zeros(size, dtype=array.dtype)
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
    wheel.due[index].packets += 1
    window.in_flight += 1
    packet.time_ps, packet.unit = arrives, unit
    place = np.int64(bucket.last) * CHUNK + fill
    wheel.packets[place] = packet
    prefetch(wheel.packets, place + 1, 0)


@compiled
def use_chunks(wheel: Wheel, first: int, last: int, chunks: int) -> None:
    """Notes that so many chunks, which are chained, hold packets that arrive in the window."""
    window = wheel.window[0]
    if window.first_used < 0:
        window.first_used, window.chunks_used = first, 0
    else:
        wheel.next_chunk[window.last_used] = first
    window.last_used = last
    window.chunks_used += chunks


@compiled
def release_chunks(wheel: Wheel) -> None:
    """Frees the chunks whose packets have arrived in the window."""
    window = wheel.window[0]
    if window.first_used >= 0:
        wheel.next_chunk[window.last_used] = window.free_chunk
        window.free_chunk = window.first_used
        window.free_chunks += window.chunks_used
        window.first_used = -1
