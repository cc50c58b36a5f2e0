"""The state of a program before it begins."""

import numpy as np

from netsim.engine.compiled.fabric import FabricArrays
from netsim.engine.forward.state import GATHERED, MOST_JOINED, Progress
from netsim.engine.forward.tasks import successors
from netsim.workload.tasks import TaskColumns

_MEETINGS = 1 << 16
"""Entries of the hash table of units that meet; the driver gives up before half of them are in use."""


def progress_of(columns: TaskColumns, fabric: FabricArrays, hosts: np.ndarray) -> tuple[Progress, np.ndarray]:
    """The state of a program before it begins, and whether each task waits for a message.

    Args:
        columns: The program.
        fabric: The fabric.
        hosts: Host of each rank.
    """
    tasks, links = len(columns.bytes), len(fabric.delay_ps)
    next_begin, following, depends = successors(columns.bytes, columns.after_begin, columns.after)
    src_host = hosts[columns.src]
    inside = src_host == hosts[columns.dst]
    room = 2 * tasks + 2 * MOST_JOINED
    progress = Progress(
        bytes=columns.bytes,
        delay_ps=columns.delay_ps,
        first_link=np.where(inside, fabric.inside[src_host], fabric.up[src_host]),
        next_begin=next_begin,
        next=following,
        waits_for=np.diff(columns.after_begin),
        end_ps=_filled(tasks),
        kind=_filled(tasks),
        released=np.zeros(tasks, dtype=np.int64),
        stack=np.zeros(tasks + 1, dtype=np.int64),
        event_ps=np.zeros(tasks + room, dtype=np.int64),
        event=np.zeros(tasks + room, dtype=np.int64),
        due_ps=_filled(tasks),
        free_ps=np.zeros(links, dtype=np.int64),
        owner=_filled(links),
        seen_ps=_filled(links),
        unit=np.zeros(room, dtype=np.int64),
        binding=np.zeros(room, dtype=np.int64),
        unit_ps=np.zeros(room, dtype=np.int64),
        unit_begin=np.zeros(room + 1, dtype=np.int64),
        laid=np.zeros(room, dtype=np.int64),
        joint=np.zeros((_MEETINGS, 3), dtype=np.int64),
        joint_unit=_filled(_MEETINGS),
        totals=_totals(),
    )
    return progress, depends


def _totals() -> np.ndarray:
    """All 0 but the moment at which messages were gathered, which was none."""
    totals = np.zeros(13, dtype=np.int64)
    totals[GATHERED] = -1
    return totals


def _filled(size: int) -> np.ndarray:
    """Entries that say: none yet."""
    return np.full(size, -1, dtype=np.int64)
