"""Calendars of the event engine: heaps of events, in the order of `netsim.engine.reference.calendar`.

Entry 0 of a heap is its header: `time_ps` is the number of entries, and `key` is 1 while the first entry has been taken
and its place is not filled yet. Entries begin at 1; the children of entry i are 4 i - 2 to 4 i + 1. Four entries that
are never due follow the last one. Entries behind those are written when the heap grows, so that a heap with room for
all that may ever happen takes memory only for what does.
"""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Array, Whole

ENTRY = np.dtype([("time_ps", np.int64), ("key", np.int64), ("what", np.int64)])
"""An event: its time, its order within that instant, and its subject (a lane, a flow, a link or a task)."""

END_PS = np.int64(2**62)
"""The time of an event that never happens, later than all others."""

_NEVER = np.int64(2**63 - 1)

SERIAL_BITS = 28
FLOW_BITS = 31
_PHASE_BITS = 60
END = np.int64(1 << 59)
"""First key of links whose transmissions end; before them, from 0 on, words that stop and resume queues arrive."""
ARRIVAL, TIMER, RELEASE, SEND = (np.int64(phase << _PHASE_BITS) for phase in (1, 2, 3, 4))
"""First key of each phase of an instant; tasks, which come before all of them, have a heap of their own."""
_PULL = np.int64(1 << 40)


def heap(entries: int) -> np.ndarray:
    """An empty heap with room for so many entries."""
    fresh = np.zeros(entries + 5, dtype=ENTRY)
    fresh["time_ps"][1:6] = fresh["key"][1:6] = _NEVER
    return fresh


def longer_heap(heap_: np.ndarray, entries: int) -> np.ndarray:
    """A heap with room for at least so many entries, and at least half as many again as it had."""
    longer = heap(max(entries, len(heap_) * 3 // 2))
    used = int(heap_["time_ps"][0]) + 5
    longer[:used] = heap_[:used]
    return longer


@compiled
def phase(key: int) -> Whole:
    """First key of the phase of a key."""
    return (key >> _PHASE_BITS) << _PHASE_BITS


@compiled
def arrival_key(flow_id: int, serial: int, control: int) -> Whole:
    """Place of a packet among those that arrive in the same instant."""
    return ARRIVAL | (flow_id << (SERIAL_BITS + 1)) | (serial << 1) | control


@compiled
def timer_key(flow_id: int, pace: int) -> Whole:
    """Place of a flow's timers within an instant: first the retransmission timer, then the pacing timer."""
    return TIMER | (flow_id << 1) | pace


@compiled
def pull_key(link: int) -> Whole:
    """Place of a receiver that asks for packets, by the link that leads to it: after all timers of flows."""
    return TIMER | _PULL | link


@compiled
def is_pull(key: int) -> bool:
    """Whether a timer is that of a receiver that asks for packets."""
    return phase(key) == TIMER and (key & _PULL) != 0


@compiled
def first_time(heap: Array) -> Whole:
    """When the first entry is due."""
    return heap[1].time_ps if heap[0].time_ps else END_PS


@compiled
def push(heap: Array, time_ps: int, key: int, what: int) -> None:
    """Adds an entry; it fills the place of the first one if that has been taken."""
    if heap[0].key:
        heap[0].key = 0
        _sink(heap, time_ps, key, what)
        return
    heap[0].time_ps += 1
    size = heap[0].time_ps
    heap[size + 4].time_ps = heap[size + 4].key = _NEVER
    _rise(heap, size, time_ps, key, what)


@compiled
def replace(heap: Array, time_ps: int, key: int, what: int) -> None:
    """Puts a later entry in place of the first one."""
    _sink(heap, time_ps, key, what)


@compiled
def take_first(heap: Array) -> None:
    """Takes the first entry out; its place is filled by the next `push` or by `close`."""
    heap[0].key = 1


@compiled
def close(heap: Array) -> None:
    """Fills the place of the entry that was taken, if nothing else has."""
    if heap[0].key:
        heap[0].key = 0
        size = heap[0].time_ps
        heap[0].time_ps = size - 1
        last = heap[size]
        time_ps, key, what = last.time_ps, last.key, last.what
        last.time_ps = last.key = _NEVER
        if size > 1:
            _sink(heap, time_ps, key, what)


@compiled
def empty(heap: Array) -> None:
    """Forgets all entries."""
    heap[0].time_ps = heap[0].key = 0
    for place in range(1, 5):
        heap[place].time_ps = heap[place].key = _NEVER


@compiled
def bring_forward(heap: Array, time_ps: int, key: int, what: int) -> None:
    """Moves the entry of `what` to an earlier time; a rare operation, which searches the heap."""
    place = 1
    while heap[place].what != what or phase(heap[place].key) != phase(key):
        place += 1
    _rise(heap, place, time_ps, key, what)


@compiled
def move_up(heap: Array, time_ps: int, key: int) -> bool:
    """Moves the entry with a key to an earlier time, if it is due later; a rare operation, which searches the heap.

    Returns:
        Whether there is such an entry.
    """
    place = 1
    while place <= heap[0].time_ps and heap[place].key != key:
        place += 1
    if place > heap[0].time_ps:
        return False
    if heap[place].time_ps > time_ps:
        _rise(heap, place, time_ps, key, heap[place].what)
    return True


@compiled
def _rise(heap: Array, place: int, time_ps: int, key: int, what: int) -> None:
    while place > 1:
        above = (place + 2) >> 2
        entry = heap[above]
        if entry.time_ps < time_ps or (entry.time_ps == time_ps and entry.key <= key):
            break
        _put(heap, place, entry.time_ps, entry.key, entry.what)
        place = above
    _put(heap, place, time_ps, key, what)


@compiled
def _sink(heap: Array, time_ps: int, key: int, what: int) -> None:
    last = heap[0].time_ps
    place = np.uint64(1)
    while True:
        below = np.uint64(4) * place - np.uint64(2)
        if np.int64(below) > last:
            break
        left = _earlier(heap, below, below + np.uint64(1))
        right = _earlier(heap, below + np.uint64(2), below + np.uint64(3))
        best = _earlier(heap, left, right)
        entry = heap[best]
        if time_ps < entry.time_ps or (time_ps == entry.time_ps and key <= entry.key):
            break
        _put(heap, place, entry.time_ps, entry.key, entry.what)
        place = best
    _put(heap, place, time_ps, key, what)


@compiled
def _earlier(heap: Array, one: int, other: int) -> Whole:
    """The earlier of two entries, computed without a branch."""
    time_ps, other_ps = heap[one].time_ps, heap[other].time_ps
    later = (other_ps < time_ps) | ((other_ps == time_ps) & (heap[other].key < heap[one].key))
    return one + (other - one) * np.uint64(later)


@compiled
def _put(heap: Array, place: int, time_ps: int, key: int, what: int) -> None:
    entry = heap[place]
    entry.time_ps = time_ps
    entry.key = key
    entry.what = what
