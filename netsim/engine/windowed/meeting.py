"""Where the threads of a run wait for each other: at the end of each stage of a window."""

import numpy as np

from netsim.engine.compiled.atomics import add, read, yield_core
from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Array, Whole
from netsim.engine.windowed.records import GOES_ON

_ROW = 16
"""Numbers of a thread: as many as fill lines of the cache that no other thread writes."""
_MEETINGS, _REASONS = 0, 1
"""Columns of a thread: meetings so far; why it must stop, two in turn."""
_READS_BEFORE_YIELDING = 2000


def meetings_of(threads: int) -> np.ndarray:
    """Numbers for the meetings of so many threads: behind those of each thread, how often any has come to one."""
    return np.zeros((threads + 1) * _ROW, dtype=np.int64)


@compiled
def meet(meetings: Array, threads: int, thread: int, why: int) -> bool:
    """Waits until all threads are there, and returns whether all go on; `why` is this thread's reason to stop, or
    GOES_ON.

    Two reasons in turn: a thread may be at the next meeting before another has read the reasons of this one.
    """
    if threads == 1:
        return why == GOES_ON
    row, comings = thread * _ROW, threads * _ROW
    turn = _REASONS + (meetings[row + _MEETINGS] & 1)
    meetings[row + _MEETINGS] += 1
    meetings[row + turn] = why
    add(meetings, comings, 1)
    _wait_until(meetings, comings, threads * meetings[row + _MEETINGS])
    all_go_on = True
    for other in range(threads):
        all_go_on &= meetings[other * _ROW + turn] == GOES_ON
    return all_go_on


@compiled
def _wait_until(meetings: Array, place: int, count: Whole) -> None:
    reads = 0
    while read(meetings, place) < count:
        reads += 1
        if reads > _READS_BEFORE_YIELDING:
            yield_core()
