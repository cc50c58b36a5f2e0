"""Checks from rates alone that they are max-min fair.

They are if and only if no link carries more than its capacity and every flow has a bottleneck: a full link on which no
flow is faster. Bertsekas, Gallager: Data Networks, 6.5.2.
"""

import numpy as np
from numba import njit

from netsim.engine.fluid.segments import SegmentArrays

TOLERANCE = 1e-9
"""Relative, of loads and of rates."""


@njit(cache=True)
def violations(
    active: np.ndarray, segments: np.ndarray, rate: np.ndarray, fabric: SegmentArrays, capacity: np.ndarray
) -> tuple[int, int]:
    """Number of links above their capacity, and of flows without a bottleneck; segments [flows, 3]."""
    parts = len(fabric.begin) - 1
    carried, fastest = np.zeros(parts), np.zeros(parts)
    for flow in active:
        for part in segments[flow]:
            carried[part] += rate[flow]
            fastest[part] = max(fastest[part], rate[flow])
    bottleneck = np.full(parts, np.inf)
    overfull = 0
    for link in range(len(capacity)):
        load = highest = 0.0
        for row in range(fabric.link_begin[link], fabric.link_begin[link + 1]):
            load += fabric.segment_share[row] * carried[fabric.segment[row]]
            highest = max(highest, fastest[fabric.segment[row]])
        overfull += load > capacity[link] * (1 + TOLERANCE)
        if load >= capacity[link] * (1 - TOLERANCE):
            for row in range(fabric.link_begin[link], fabric.link_begin[link + 1]):
                part = fabric.segment[row]
                bottleneck[part] = min(bottleneck[part], highest)
    unjustified = 0
    for flow in active:
        least = np.inf
        for part in segments[flow]:
            least = min(least, bottleneck[part])
        unjustified += not least <= rate[flow] * (1 + TOLERANCE)
    return overfull, unjustified
