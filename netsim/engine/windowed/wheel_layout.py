"""The wheels of a run at its beginning, and their growth."""

from typing import NamedTuple

import numpy as np

from netsim.engine.core.arrays import END_PS, heap, longer_heap, zeros
from netsim.engine.core.shared import number, record
from netsim.engine.event.state import Array, Queued, State
from netsim.engine.windowed.shares import rows

WINDOWS, _BUCKETS = 1 << 14, 1 << 16
"""Windows in one turn of the wheel, and most buckets of a thread."""
_CHUNKS, _ARRIVALS, _HELD, _UNITS_OF_CHUNK = 256, 1024, 1024, 4
"""Initial room of each thread, and units per chunk of which at least one is kept, since growing copies all chunks."""


class Wheels(NamedTuple):
    """The wheels of all threads; the fields up to `scratch` have a row for each thread."""

    window: Array
    due: Array
    buckets: Array
    used: Array
    returned: Array
    found: Array
    arrivals: Array
    places: Array
    receipts: Array
    touched: Array
    woken: Array
    active: Array
    pending: Array
    timers: Array
    ends: Array
    scratch: Array
    region: Array
    owners: Array
    packets: Array
    next_chunk: Array
    units: Array
    endings: Array
    inside: Array
    held: Array
    next_held: Array
    meetings: Array


def wheels_of(state: State, length_ps: int, by_switch: bool, threads: int) -> Wheels:
    """Empty wheels."""
    links, switches = len(state.network.links), int(state.routing.source.max()) + 1
    regions = regions_of(state, threads)
    window = rows(threads, 1, record("Window"))
    window["length_ps"], window["number"], window["by_switch"] = length_ps, -1, by_switch
    window["free_chunk"] = window["free_timer"] = -1
    window["regions"], window["thread"], window["threads"] = regions, np.arange(threads)[:, None], threads
    window["due_ps"], window["spare"] = END_PS, _most_chunks(state.queued, regions)
    windows = min(WINDOWS, 1 << ((_BUCKETS // regions).bit_length() - 1))
    units = zeros(links + switches, record("Unit"))
    units["first_timer"] = -1
    units["at_host"][state.routing.up] = units["at_host"][state.routing.inside] = 1
    used, returned = rows(threads, 2, record("Used")), rows(threads, 2 * threads, record("Used"))
    used["first"] = returned["first"] = -1
    ends = heap(0 if state.queued is None else links)
    endings = np.zeros(0 if state.queued is None else switches, dtype=record("Ending"))
    endings["first"], endings["ends_ps"] = -1, END_PS
    return Wheels(
        window,
        np.zeros((threads, windows), dtype=np.int32),
        np.zeros((threads, windows * regions), dtype=record("Bucket")),
        used,
        returned,
        np.zeros((threads, _ARRIVALS), dtype=record("Arrival")),
        np.zeros((threads, _ARRIVALS), dtype=record("Arrival")),
        np.zeros((threads, number("PLACES")), dtype=np.int64),
        np.zeros((threads, _ARRIVALS if state.network.rules["ends_early"][0] else 0), dtype=record("Arrival")),
        np.zeros((threads, len(units) + 1), dtype=np.int32),
        np.zeros((threads, switches), dtype=np.int32),
        np.zeros((threads, links), dtype=np.int32),
        np.zeros((threads, len(units)), dtype=np.int32),
        np.zeros((threads, 0), dtype=record("Timer")),
        np.repeat(ends[None], threads, axis=0),
        rows(threads, 1, record("Packet")),
        region_of_units(state, switches, regions, threads),
        owners_of(regions, threads),
        zeros(0, record("Packet")),
        np.zeros(0, dtype=np.int32),
        units,
        endings,
        heap(2 * len(state.hosts.rings)),
        zeros(0, record("Packet")),
        np.zeros(0, dtype=np.int32),
        np.zeros((threads + 1) * number("MEETING_ROW"), dtype=np.int64),
    )


def _most_chunks(queued: Queued | None, regions: int) -> int:
    """Most chunks that one event may begin to fill: one for a packet, and others for pause frames to queues."""
    if queued is None:
        return 1
    return 2 + regions * len(np.unique(queued.served["pause_delay_ps"])) + len(queued.queues) // number("CHUNK")


def with_room(wheels: Wheels, notes: Array | None) -> Wheels:
    """The wheels with room for the arrivals of the next region; chunks and records that run out are doubled."""
    window = wheels.window[:, 0]
    arrivals = int((window["arrivals"] + window["awaited"]).max())
    if arrivals > wheels.found.shape[1]:
        found, arrived = (_longer(array, 3 * arrivals // 2) for array in (wheels.found, wheels.arrivals))
        wheels = wheels._replace(found=found, arrivals=arrived)
        if wheels.receipts.size:
            wheels = wheels._replace(receipts=_longer(wheels.receipts, found.shape[1]))
    for thread, of_thread in enumerate(window):
        needed = int(of_thread["awaited"]) // number("CHUNK") + int(of_thread["spare"])
        if of_thread["free_chunks"] <= needed:
            known = max(len(wheels.next_chunk), len(wheels.units) // _UNITS_OF_CHUNK)
            more = max(_CHUNKS, known // len(window)) + needed
            wheels = _with_chunks(wheels, of_thread, more)
        if notes is not None and notes[thread, 0]["packet"] < 0:
            wheels = _with_held(wheels, notes[thread], max(_HELD, len(wheels.held) // len(window)))
    window["awaited"] = 0
    return wheels


def _with_chunks(wheels: Wheels, window: np.void, more: int) -> Wheels:
    """The wheels with `more` further chunks for one thread."""
    used = len(wheels.next_chunk)
    packets = zeros((used + more) * number("CHUNK"), record("Packet"))
    packets[: len(wheels.packets)] = wheels.packets
    following = np.arange(used + 1, used + more + 1, dtype=np.int32)
    following[-1] = window["free_chunk"]
    window["free_chunk"] = used
    window["free_chunks"] += more
    return wheels._replace(packets=packets, next_chunk=np.concatenate([wheels.next_chunk, following]))


def _with_held(wheels: Wheels, notes: Array, more: int) -> Wheels:
    """The wheels with `more` records for queued packets of one thread, which has none left."""
    used = len(wheels.held)
    held, following = zeros(used + more, record("Packet")), np.arange(1, used + more + 1, dtype=np.int32)
    held[:used], following[:used], following[-1] = wheels.held, wheels.next_held, -1
    notes["packet"] = used
    return wheels._replace(held=held, next_held=following)


def with_timers(wheels: Wheels, timers: int, others: int) -> Wheels:
    """The wheels with room for `timers` timers of each thread."""
    if timers <= wheels.timers.shape[1]:
        return wheels
    longer = np.zeros((len(wheels.timers), timers), dtype=record("Timer"))
    for of_thread, before, window in zip(longer, wheels.timers, wheels.window[:, 0], strict=True):
        of_thread[: window["timers"]] = before[: window["timers"]]
    return wheels._replace(timers=longer, inside=longer_heap(wheels.inside, others + timers))


def _longer(array: np.ndarray, size: int) -> np.ndarray:
    """An array with longer rows."""
    longer = zeros(len(array) * size, array.dtype).reshape(len(array), size)
    longer[:, : array.shape[1]] = array
    return longer


LINKS_OF_REGION, _MOST_REGIONS, _OF_THREAD = 512, 256, 2
"""Least links of a region; most regions; least regions of each thread, of hosts and of switches."""

OF_HOSTS, OF_SWITCHES = range(2)
"""Regions of hosts come first in a window, those of switches after them."""


def regions_of(state: State, threads: int) -> int:
    """Number of regions: the first half are of hosts, the others of switches, or there is only one.

    A power of two for one thread; several have as many each, of either kind.
    """
    regions = max(1, min(len(state.network.links) // LINKS_OF_REGION, _MOST_REGIONS))
    regions = 1 << (regions.bit_length() - 1)
    return regions if threads == 1 else 2 * threads * max(_OF_THREAD, regions // (2 * threads))


def region_of_units(state: State, nodes: int, regions: int, threads: int) -> np.ndarray:
    """Region of each unit: of links by the node at which they begin, then of nodes.

    Links inside hosts are the leader's if there are several threads: they take part when tasks begin.
    """
    routing, half = state.routing, regions // 2
    of_node, switches = np.zeros(nodes, dtype=np.int16), np.setdiff1d(routing.source, routing.source[routing.up])
    of_node[switches] = np.arange(len(switches)) * half // max(1, len(switches)) + half
    region, hosts = np.concatenate([of_node[routing.source], of_node]), np.arange(len(routing.up))
    region[routing.up] = region[routing.inside] = hosts * half // len(hosts)
    if threads > 1:
        region[routing.inside] = 0
    return region


def owners_of(regions: int, threads: int) -> np.ndarray:
    """Thread of each region."""
    return (np.arange(regions) % max(1, regions // 2) % threads).astype(np.int32)
