"""Queues of a unit over time, thinned to those that can be the longest of an interval wherever the unit occurs."""

import numpy as np
from numba import njit

from netsim.engine.compiled.annotations import Integer


@njit(cache=True)
def note(time_ps: np.ndarray, queue_ps: np.ndarray, begin: Integer, end: Integer, width_ps: Integer) -> Integer:
    """Drops queues that are never the only longest of an interval, after one more has been added; returns the new end.

    A queue between two others at least as long, at most an interval apart, can be dropped: every interval of that
    length that holds it holds one of them.
    """
    last = end - 1
    newest_ps, newest = time_ps[last], queue_ps[last]
    while last - begin >= 2:
        before, earlier = last - 1, last - 2
        if queue_ps[before] > newest or queue_ps[earlier] < queue_ps[before]:
            break
        if newest_ps - time_ps[earlier] > width_ps:
            break
        last = before
    time_ps[last], queue_ps[last] = newest_ps, newest
    return last + 1


@njit(cache=True)
def thin(
    time_ps: np.ndarray, queue_ps: np.ndarray, begin: np.ndarray, width_ps: Integer
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thins the queues of many units, for intervals of at least `width_ps`; the same arrays with fewer entries."""
    kept = begin.copy()
    time, queue = np.empty_like(time_ps), np.empty_like(queue_ps)
    end = 0
    for unit in range(len(begin) - 1):
        kept[unit] = end
        for entry in range(begin[unit], begin[unit + 1]):
            time[end], queue[end] = time_ps[entry], queue_ps[entry]
            end = note(time, queue, kept[unit], end + 1, width_ps)
    kept[-1] = end
    return time[:end].copy(), queue[:end].copy(), kept
