"""Passages of units over links, from packet arrivals that the exact engine has sorted."""

from typing import NamedTuple

import numpy as np

from netsim.engine import _core
from netsim.engine.core.fabric import FabricArrays
from netsim.engine.exact.travel import Arrivals, Packets


class Passages(NamedTuple):
    """Units at links, and the queues that their packets joined at switches; times count from the unit's release."""

    unit: np.ndarray  # of each passage
    link: np.ndarray  # its link
    first_ps: np.ndarray  # when the first packet arrives
    last_ps: np.ndarray  # when the last one has left
    packets: np.ndarray  # number of packets
    bytes: np.ndarray  # that the link carried
    busy_ps: np.ndarray  # how long it was busy
    longest_ps: np.ndarray  # longest queue that a packet joined
    tag: np.ndarray  # the last packet
    queue_unit: np.ndarray  # unit of each queue
    queue_time_ps: np.ndarray  # when a packet joined it
    queue_ps: np.ndarray  # the queue


_OF_QUEUES = 3
"""Fields of `Passages` with an entry a queue; the others have one a passage."""


def passages(
    fabric: FabricArrays,
    arrivals: Arrivals,
    packets: Packets,
    unit_of_flow: np.ndarray,
    release_ps: np.ndarray,
    width_ps: int,
) -> Passages:
    """Returns the passages of units over links, on each of which no packets of two units overlap in time."""
    links, count = len(arrivals.begin) - 1, len(arrivals.tag)
    sizes = [min(count, links * len(release_ps))] * (len(Passages._fields) - _OF_QUEUES) + [count] * _OF_QUEUES
    room = Passages(*(np.empty(size, dtype=np.int64) for size in sizes))
    rows, queues, apart = _core.follow_units(fabric, arrivals, packets, unit_of_flow, release_ps, width_ps, room)
    assert apart, "further apart than any can last"
    return Passages(*(part[:rows] for part in room[:-_OF_QUEUES]), *(part[:queues] for part in room[-_OF_QUEUES:]))


def thin(
    time_ps: np.ndarray, queue_ps: np.ndarray, begin: np.ndarray, width_ps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keeps of each unit's queue lengths those that can be the largest in an interval of `width_ps` or more.

    Returns:
        The entries that are kept of both arrays, which are overwritten, and the first entry of each unit.
    """
    kept = np.empty_like(begin)
    _core.thin_queues(time_ps, queue_ps, begin, kept, width_ps)
    return time_ps[: kept[-1]].copy(), queue_ps[: kept[-1]].copy(), kept
