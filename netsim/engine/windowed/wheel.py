"""The calendar of the windowed engine: a wheel of buckets, each with the packets that arrive in one window and region.

Regions are those of `netsim.engine.windowed.regions`. Packets lie in chunks, which are chained. What arrives more than
a turn of the wheel later waits in the last bucket of that turn, and goes back into the wheel from there.

Each thread has buckets of its own, into which it alone puts packets. Whoever deals with a region takes them out of the
buckets of all threads. A chunk belongs to the thread that put packets into it, and goes back to it.
"""

from typing import NamedTuple

import numpy as np

from netsim.engine.compiled.prefetch import prefetch
from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Array, Queued, Record, Whole

CHUNK = 32
"""Packets of a chunk."""


class Wheel(NamedTuple):
    """Calendar, packets and the open window, as a thread sees them; see `wheel_of`."""

    window: Array  # one record of `WINDOW`
    # Packets that the thread has put into the buckets of a window; window k has entry k mod their number, a power of
    # two
    due: Array
    buckets: Array  # records of `BUCKET`, by entry of `due` and region
    # Records of `USED`: chunks of the thread whose packets it deals with, of hosts until the end of the window, and of
    # the region of switches
    used: Array
    # Records of `USED`: chunks of other threads of whose packets it is done, by kind of region and thread
    returned: Array
    found: Array  # records of `ARRIVAL`: those of the window, as they were found, then scratch space
    arrivals: Array  # the same by unit, and sorted once the unit deals with them
    places: Array  # whole numbers for sorting
    # Records of `ARRIVAL`, if the run ends while background traffic goes on: data at all receivers, sorted
    receipts: Array
    # Units with arrivals in this window and region, and switches where transmissions end; one more than there are units
    touched: Array
    woken: Array  # switches where transmissions end in this window
    active: Array  # hosts' links with something to do in this window
    pending: Array  # units that have something to do on their own in a later window
    timers: Array  # records of `TIMER`; those that were in use are chained, and behind them are only fresh ones
    ends: Array  # heap of ends of transmissions in this window at a switch where their order matters
    scratch: Array  # a record of `VALUE` for the packet that leaves a host
    region: Array  # region of each unit
    owners: Array  # thread that deals with each region
    packets: Array  # records of `VALUE`, in chunks
    next_chunk: Array  # the chunk after each, in its bucket or among those that are free
    units: Array  # records of `UNIT`: links, then switches
    endings: Array  # records of `ENDING` by switch, if links have queues
    inside: Array  # heap of what happens at links inside hosts, all of which are the leader's
    held: Array  # records of `VALUE`: packets that wait in queues; `NOTES.packet` is the first free one of a thread
    next_held: Array  # the free record after each
    meetings: Array  # see `netsim.engine.windowed.meeting`


Wheels = Wheel
"""The wheels of all threads as one: the fields up to `scratch` have a row for each thread."""


@compiled
def wheel_of(wheels: Wheels, thread: int) -> Wheel:
    """The wheel of a thread."""
    return Wheel(
        wheels.window[thread],
        wheels.due[thread],
        wheels.buckets[thread],
        wheels.used[thread],
        wheels.returned[thread],
        wheels.found[thread],
        wheels.arrivals[thread],
        wheels.places[thread],
        wheels.receipts[thread],
        wheels.touched[thread],
        wheels.woken[thread],
        wheels.active[thread],
        wheels.pending[thread],
        wheels.timers[thread],
        wheels.ends[thread],
        wheels.scratch[thread],
        wheels.region,
        wheels.owners,
        wheels.packets,
        wheels.next_chunk,
        wheels.units,
        wheels.endings,
        wheels.inside,
        wheels.held,
        wheels.next_held,
        wheels.meetings,
    )


@compiled
def owner_of(wheels: Wheels, unit: int) -> Whole:
    """The thread that deals with a unit."""
    return np.int64(wheels.owners[wheels.region[unit]])


@compiled
def due_at(wheel: Wheel, time_ps: int) -> Whole:
    """Index of what is due in the window of a moment, or in the last one of this turn of the wheel."""
    window, turn = wheel.window[0], len(wheel.due)
    number = np.uint64(time_ps) // np.uint64(window.length_ps)
    return np.int64(min(number, np.uint64(window.number + turn - 1)) & np.uint64(turn - 1))


@compiled
def due_now(wheel: Wheel) -> Whole:
    """Index of what is due in the open window."""
    return wheel.window[0].number & (len(wheel.due) - 1)


@compiled
def bucket_row(wheel: Wheel) -> Whole:
    """Index of the buckets of the open window and region."""
    window = wheel.window[0]
    return due_now(wheel) * window.regions + window.region


@compiled
def put(wheel: Wheel, packet: Record, unit: int, region: int, arrives: int) -> None:
    """Puts a packet into the wheel, which arrives in a region; there is a free chunk."""
    window, index = wheel.window[0], due_at(wheel, arrives)
    bucket = wheel.buckets[index * window.regions + region]
    packets = np.int64(bucket.packets)
    if packets % CHUNK == 0:
        chunk = window.free_chunk
        window.free_chunk = wheel.next_chunk[chunk]
        window.free_chunks -= 1
        if packets:
            wheel.next_chunk[bucket.last] = chunk
        else:
            bucket.first = chunk
        bucket.last = chunk
    bucket.packets = packets + 1
    wheel.due[index] += 1
    window.in_flight += 1
    place = np.int64(bucket.last) * CHUNK + packets % CHUNK
    wheel.packets[place] = packet
    copy = wheel.packets[place]
    copy.time_ps, copy.unit = arrives, unit
    prefetch(wheel.packets, place + 1, 0)


@compiled
def use_chunks(wheel: Wheel, used: Record, first: int, last: int, chunks: int) -> None:
    """Adds so many chunks, which are chained, to those whose packets arrive in the window."""
    if used.first < 0:
        used.first, used.chunks = first, 0
    else:
        wheel.next_chunk[used.last] = first
    used.last = last
    used.chunks += chunks


@compiled
def release_chunks(wheel: Wheel, used: Record) -> None:
    """Frees chunks of the thread whose packets have arrived in the window."""
    window = wheel.window[0]
    if used.first >= 0:
        wheel.next_chunk[used.last] = window.free_chunk
        window.free_chunk = used.first
        window.free_chunks += used.chunks
        used.first = -1


@compiled
def take_back(wheels: Wheels, wheel: Wheel, whose: int) -> None:
    """Frees chunks of the thread that other threads are done with, of one kind of region."""
    window = wheel.window[0]
    row = returned_row(window, whose, np.int64(window.thread))
    for other in range(window.threads):
        if other != window.thread:
            release_chunks(wheel, wheels.returned[other, row])


@compiled
def returned_row(window: Record, whose: int, thread: int) -> Whole:
    """Row of `Wheel.returned` for chunks of a thread that were those of one kind of region."""
    return whose * np.int64(window.threads) + thread


@compiled
def lacks_room(wheel: Wheel, queued: Queued | None) -> bool:
    """Whether the packets and words of one event might not fit."""
    window = wheel.window[0]
    if queued is None:
        return window.free_chunks < window.spare
    return window.free_chunks < window.spare or queued.notes[0].packet < 0


@compiled
def lacks_room_for_arrivals(wheels: Wheels, wheel: Wheel) -> bool:
    """Whether the arrivals of the next region might not fit, or those that arrive a turn of the wheel later."""
    window, awaited, row = wheel.window[0], np.int64(0), bucket_row(wheel)
    for thread in range(window.threads):
        awaited += wheels.buckets[thread, row].packets
    window.awaited = awaited
    lacks_chunks = window.free_chunks <= awaited // CHUNK + window.spare
    return lacks_chunks or window.arrivals + awaited > len(wheel.found)
