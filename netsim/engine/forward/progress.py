"""The state of a program before it begins."""

import numpy as np

from netsim.engine.compiled.fabric import FabricArrays
from netsim.engine.compiled.successors import successors
from netsim.engine.forward.state import GATHERED, MOST_JOINED, Progress
from netsim.workload.tasks import TaskColumns

_MEETINGS = 1 << 16
"""Entries of the hash table of units that meet; the driver gives up before half of them are in use."""


def progress_of(columns: TaskColumns, fabric: FabricArrays, hosts: np.ndarray) -> Progress:
    """The state of a program before it begins."""
    tasks, links = len(columns.bytes), len(fabric.delay_ps)
    next_begin, following = successors(columns.after_begin, columns.after)
    room = 2 * tasks + 2 * MOST_JOINED
    return Progress(
        bytes=columns.bytes,
        delay_ps=columns.delay_ps,
        first_link=_first_links(columns, fabric, hosts),
        next_begin=next_begin,
        next=following,
        waits_for=np.diff(columns.after_begin).astype(np.int32),
        end_ps=_filled(tasks),
        kind=np.full(tasks, -1, dtype=np.int32),
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


def _first_links(columns: TaskColumns, fabric: FabricArrays, hosts: np.ndarray) -> np.ndarray:
    """Link on which the host of each task sends, as int32."""
    host = hosts.astype(np.int32)
    src_host = host[columns.src]
    first_link = fabric.up.astype(np.int32)[src_host]
    inside = src_host == host[columns.dst]
    first_link[inside] = fabric.inside[src_host[inside]]
    return first_link


def _totals() -> np.ndarray:
    """All 0 but the moment at which messages were gathered, which was none."""
    totals = np.zeros(13, dtype=np.int64)
    totals[GATHERED] = -1
    return totals


def _filled(size: int) -> np.ndarray:
    """Entries that say: none yet."""
    return np.full(size, -1, dtype=np.int64)
