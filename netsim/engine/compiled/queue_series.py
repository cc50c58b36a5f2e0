"""`netsim.engine.queue_series` for compiled code: the same intervals."""

from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.engine.compiled.annotations import Integer
from netsim.engine.protocol import QueueSeries
from netsim.engine.queue_series import FIRST_WIDTH_PS, INTERVALS


class Longest(NamedTuple):
    """Longest queue of each interval."""

    queue_ps: np.ndarray  # [INTERVALS] its length
    shape: np.ndarray  # binary logarithm of an interval's length in picoseconds; intervals in use


def no_queues() -> Longest:
    """A series without queues."""
    shape = np.array([FIRST_WIDTH_PS.bit_length() - 1, 0], dtype=np.int64)
    return Longest(np.zeros(INTERVALS, dtype=np.int64), shape)


@njit(cache=True)
def note_queue(longest: Longest, time_ps: Integer, queue_ps: Integer) -> None:
    """See `QueueRecorder.add`."""
    interval = time_ps >> longest.shape[0]
    if interval >= INTERVALS:
        interval = _widened(longest, time_ps)
    if queue_ps > longest.queue_ps[interval]:
        longest.queue_ps[interval] = queue_ps
    if interval >= longest.shape[1]:
        longest.shape[1] = interval + 1


@njit(cache=True)
def _widened(longest: Longest, time_ps: Integer) -> Integer:
    """Doubles the length of intervals until one of them holds a moment, and returns the index of that interval."""
    while time_ps >> longest.shape[0] >= INTERVALS:
        for interval in range(INTERVALS // 2):
            longest.queue_ps[interval] = max(longest.queue_ps[2 * interval], longest.queue_ps[2 * interval + 1])
        longest.queue_ps[INTERVALS // 2 :] = 0
        longest.shape[0] += 1
        longest.shape[1] = (longest.shape[1] + 1) // 2
    return time_ps >> longest.shape[0]


def series_of(longest: Longest) -> QueueSeries:
    """See `QueueRecorder.series`."""
    width_bits, used = longest.shape.tolist()
    return QueueSeries(1 << width_bits, longest.queue_ps[:used].copy())
