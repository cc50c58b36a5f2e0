"""Max-min fair rates by progressive filling, compiled.

The rates of all flows rise together; when a link is full, the flows on it have their rate. Bertsekas, Gallager: Data
Networks, 6.5.2. The level at which a link is full only rises while others settle, so a heap of levels that are
brought up to date when they come up finds the next full link, and every flow is settled once.

When flows leave, the rates of all slower flows stay as they are: until the level reaches the slowest of those that
leave, filling goes the same way with and without them, since their links are not full before. So filling may go on
from there.
"""

from heapq import heapify, heappop, heapreplace

import numpy as np
from numba import njit

from netsim.engine.fluid.segments import SegmentArrays

_EQUAL = 1 + 1e-12
_RISING = -1.0


@njit(cache=True)
def fill(
    active: np.ndarray,
    rising: np.ndarray,
    segments: np.ndarray,
    rate: np.ndarray,
    fabric: SegmentArrays,
    capacity: np.ndarray,
) -> None:
    """Sets the rates of `rising` flows while all others keep theirs; capacity and rates have the same unit.

    `rising` includes every flow that is at least as fast as the slowest one affected.
    """
    parts = len(fabric.begin) - 1
    waiting, used = np.zeros(parts, dtype=np.int64), np.zeros(parts)
    for flow in rising:
        rate[flow] = _RISING
    for flow in active:
        for part in segments[flow]:
            if rate[flow] == _RISING:
                waiting[part] += 1
            else:
                used[part] += rate[flow]
    flow_begin, flows = _flows_by_segment(rising, segments, waiting)
    heap = [(0.0, 0)]
    heap.clear()
    for link in range(len(capacity)):
        level = _level(link, fabric, capacity, waiting, used)
        if level < np.inf:
            heap.append((level, link))
    heapify(heap)
    while len(heap):
        known, link = heap[0]
        level = _level(link, fabric, capacity, waiting, used)
        if level == np.inf:
            heappop(heap)
        elif level > known * _EQUAL:
            heapreplace(heap, (level, link))
        else:
            heappop(heap)
            for row in range(fabric.link_begin[link], fabric.link_begin[link + 1]):
                part = fabric.segment[row]
                for place in range(flow_begin[part], flow_begin[part + 1]):
                    if not waiting[part]:
                        break
                    flow = flows[place]
                    if rate[flow] == _RISING:
                        rate[flow] = level
                        for passed in segments[flow]:
                            waiting[passed] -= 1
                            used[passed] += level


@njit(cache=True)
def _flows_by_segment(rising: np.ndarray, segments: np.ndarray, waiting: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rising flows by segment: first row of each segment, and the flows."""
    begin = np.zeros(len(waiting) + 1, dtype=np.int64)
    begin[1:] = np.cumsum(waiting)
    free, flows = begin[:-1].copy(), np.empty(begin[-1], dtype=np.int64)
    for flow in rising:
        for part in segments[flow]:
            flows[free[part]] = flow
            free[part] += 1
    return begin, flows


@njit(cache=True)
def _level(link: int, fabric: SegmentArrays, capacity: np.ndarray, waiting: np.ndarray, used: np.ndarray) -> float:
    """Rate of the rising flows at which a link is full, infinite if it has none."""
    demand = taken = 0.0
    for row in range(fabric.link_begin[link], fabric.link_begin[link + 1]):
        part, share = fabric.segment[row], fabric.segment_share[row]
        demand += share * waiting[part]
        taken += share * used[part]
    if demand == 0:
        return np.inf
    return max(0.0, (capacity[link] - taken) / demand)
