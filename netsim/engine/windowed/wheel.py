"""The calendar of the windowed engine: a wheel of buckets, each with the packets that arrive in one window.

Packets lie in chunks, which are chained. A bucket also serves the windows that come a turn of the wheel later, whose
packets go back into it.
"""

from typing import NamedTuple

import numpy as np

from netsim.engine.compiled.lines import zeros
from netsim.engine.event.calendar import END_PS, heap, longer_heap
from netsim.engine.event.compiled import compiled
from netsim.engine.event.records import PACKET
from netsim.engine.event.state import Array, Queued, Record, State, Whole
from netsim.engine.windowed.sorting import PLACES

CHUNK = 32
"""Packets of a chunk."""
BUCKETS = 1 << 14
_CHUNKS, _ARRIVALS, _HELD = 256, 1024, 1024
"""Room at first."""

_INDEX, _WHOLE, _YES = np.int32, np.int64, np.uint8
_VALUE = {name: PACKET[name] for name in PACKET.names or () if name not in ("next", "previous")}
VALUE = np.dtype(
    sorted([*_VALUE.items(), ("unit", np.dtype(_INDEX))], key=lambda field: -field[1].itemsize), align=True
)
"""A packet by value: the fields of `PACKET`, and the unit at which it arrives, or -1; see `passage`."""

ARRIVAL = np.dtype([("time_ps", _WHOLE), ("key", _WHOLE), ("place", _INDEX), ("unit", _INDEX)])
"""An arrival of the window: its time, its order within that instant, and the packet's place in `Wheel.packets`."""

BUCKET = np.dtype([(name, _INDEX) for name in ("first", "last", "fill", "packets")])
"""First and last chunk, packets in the last one, packets in all."""

UNIT = np.dtype(
    [
        *((name, _INDEX) for name in ("begin", "end", "first_timer")),
        *((name, _YES) for name in ("active", "pending", "at_host")),
    ],
    align=True,
)
"""A unit of the simulation: rows of its arrivals in this window; of a host's link also its timers of this window, and
whether it is among the active ones; whether it is among `Wheel.pending`; whether it is the link of a host."""

TIMER = np.dtype([("time_ps", _WHOLE), ("key", _WHOLE), ("what", _INDEX), ("next", _INDEX)], align=True)
"""A timer that runs out in this window: of a flow, or of the receiver behind a link, which asks for packets."""

WINDOW = np.dtype(
    [
        *(
            (name, _WHOLE)
            for name in ("length_ps", "end_ps", "number", "now_ps", "in_flight", "due_ps", "spare", "cut_ps", "cut_key")
        ),
        *(
            (name, _INDEX)
            for name in (
                "stage",
                "place",
                "touched",
                "arrivals",
                "active",
                "pending",
                "receipts",
                "received",
                "first_used",
                "last_used",
                "chunks_used",
            )
        ),
        *((name, _INDEX) for name in ("free_chunk", "free_chunks", "free_timer", "by_switch", "over")),
    ],
    align=True,
)
"""The window: its length, its end and its number; the last instant in which tasks began; packets in the wheel; when the
first pending unit is due; chunks that one event may need; the moment and key before which everything happens, those of
the window's end, or of a run that ends early and is `over` with the window; how far the loop is (see
`netsim.engine.windowed.kernel`); receipts, and how many have been received; chunks in use, and free."""

NEXT, OPEN, TASKS, SWITCHES, REST = range(5)
"""Stages of a window: none is open; one is, and receivers take what has come; tasks begin; switches pass packets on;
hosts do what is left."""


class Wheel(NamedTuple):
    """Calendar, packets and the open window.

    Args:
        window: One record of `WINDOW`.
        buckets: Records of `BUCKET`; window k has bucket k mod their number.
        packets: Records of `VALUE`, in chunks.
        next_chunk: The chunk after each, in its bucket or among those that are free.
        found: Records of `ARRIVAL`: those of the window, as they were found, then scratch space.
        arrivals: The same by unit, and sorted once the unit deals with them.
        places: Whole numbers for sorting.
        receipts: Records of `ARRIVAL`, if the run ends while background traffic goes on: data at all receivers, sorted.
        units: Records of `UNIT`: links, then switches.
        touched: Units with arrivals in this window, and switches where transmissions end.
        active: Hosts' links with something to do in this window.
        pending: Units that have something to do on their own in a later window.
        timers: Records of `TIMER`; those not in use are chained.
        inside: Heap of what happens at links inside hosts.
        scratch: A record of `VALUE` for the packet that leaves a host.
        held: Records of `VALUE`: packets that wait in queues; `NOTES.packet` is the first free one.
        next_held: The free record after each.
    """

    window: Array
    buckets: Array
    packets: Array
    next_chunk: Array
    found: Array
    arrivals: Array
    places: Array
    receipts: Array
    units: Array
    touched: Array
    active: Array
    pending: Array
    timers: Array
    inside: Array
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
    window["free_chunk"] = window["free_timer"] = window["first_used"] = -1
    window["due_ps"], window["spare"] = END_PS, _most_chunks(state.queued)
    buckets = np.full(BUCKETS, -1, dtype=BUCKET)
    buckets["fill"] = buckets["packets"] = 0
    units = np.zeros(links + switches, dtype=UNIT)
    units["first_timer"] = -1
    units["at_host"][state.routing.up] = units["at_host"][state.routing.inside] = 1
    wheel = Wheel(
        window,
        buckets,
        zeros(0, VALUE),
        np.zeros(0, dtype=_INDEX),
        np.zeros(_ARRIVALS, dtype=ARRIVAL),
        np.zeros(_ARRIVALS, dtype=ARRIVAL),
        np.zeros(PLACES, dtype=np.int64),
        np.zeros(_ARRIVALS if state.network.rules["ends_early"][0] else 0, dtype=ARRIVAL),
        units,
        np.zeros(len(units), dtype=_INDEX),
        np.zeros(links, dtype=_INDEX),
        np.zeros(len(units), dtype=_INDEX),
        np.zeros(0, dtype=TIMER),
        heap(2 * len(state.hosts.rings)),
        zeros(1, VALUE),
        zeros(0, VALUE),
        np.zeros(0, dtype=_INDEX),
    )
    return with_held(with_chunks(wheel, _CHUNKS), state.queued)


def _most_chunks(queued: Queued | None) -> int:
    """How many chunks one event may begin to fill: that of a packet, and those of words to queues."""
    if queued is None:
        return 1
    return 2 + len(np.unique(queued.queues["news_ps"])) + len(queued.queues) // CHUNK


def with_held(wheel: Wheel, queued: Queued | None) -> Wheel:
    """The wheel with twice as many records for packets that wait in queues, if all are in use."""
    if queued is None or (len(wheel.held) and queued.notes["packet"][0] >= 0):
        return wheel
    used = len(wheel.held)
    size = max(_HELD, 2 * used)
    held, following = zeros(size, VALUE), np.arange(1, size + 1, dtype=_INDEX)
    held[:used], following[:used], following[-1] = wheel.held, wheel.next_held, -1
    queued.notes["packet"] = used
    return wheel._replace(held=held, next_held=following)


def with_room(wheel: Wheel, queued: Queued | None) -> Wheel:
    """The wheel with room for the arrivals of its fullest bucket, and twice as much of what is scarce."""
    wheel, spare = with_held(wheel, queued), int(wheel.window["spare"][0])
    fullest = int(wheel.buckets["packets"].max())
    if fullest > len(wheel.found):
        found, arrivals = (_longer(array, 3 * fullest // 2) for array in (wheel.found, wheel.arrivals))
        wheel = wheel._replace(found=found, arrivals=arrivals)
        if len(wheel.receipts):
            wheel = wheel._replace(receipts=np.zeros(len(found), dtype=ARRIVAL))
    if wheel.window["free_chunks"][0] <= fullest // CHUNK + spare:
        wheel = with_chunks(wheel, len(wheel.next_chunk) + fullest // CHUNK + spare)
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


def with_timers(wheel: Wheel, timers: int, others: int) -> Wheel:
    """The wheel with room for so many timers, all of which may be those of flows inside hosts, among `others` there."""
    window, used = wheel.window[0], len(wheel.timers)
    if timers <= used:
        return wheel
    longer = _longer(wheel.timers, timers)
    longer["next"][used:] = np.arange(used + 1, timers + 1)
    longer["next"][-1] = window["free_timer"]
    window["free_timer"] = used
    return wheel._replace(timers=longer, inside=longer_heap(wheel.inside, others + timers))


def _longer(array: np.ndarray, size: int) -> np.ndarray:
    longer = np.zeros(size, dtype=array.dtype)
    longer[: len(array)] = array
    return longer


@compiled
def bucket_of(wheel: Wheel, time_ps: int) -> Whole:
    """Bucket of the window of a moment."""
    number = np.uint64(time_ps) // np.uint64(wheel.window[0].length_ps)
    return np.int64(number & np.uint64(BUCKETS - 1))


@compiled
def put(wheel: Wheel, packet: Record, unit: int, arrives: int) -> None:
    """Puts a packet into the wheel; there is a free chunk."""
    window = wheel.window[0]
    bucket = wheel.buckets[bucket_of(wheel, arrives)]
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
    bucket.packets += 1
    window.in_flight += 1
    packet.time_ps, packet.unit = arrives, unit
    wheel.packets[bucket.last * CHUNK + fill] = packet


@compiled
def release_chunks(wheel: Wheel) -> None:
    """Frees the chunks of the window."""
    window = wheel.window[0]
    if window.first_used >= 0:
        wheel.next_chunk[window.last_used] = window.free_chunk
        window.free_chunk = window.first_used
        window.free_chunks += window.chunks_used
        window.first_used = -1


@compiled
def lacks_room(wheel: Wheel, queued: Queued | None) -> bool:
    """Whether the packets and words of one event might not fit."""
    window = wheel.window[0]
    if queued is None:
        return window.free_chunks < window.spare
    return window.free_chunks < window.spare or queued.notes[0].packet < 0
