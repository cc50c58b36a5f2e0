"""The state of a program that is carried out unit by unit."""

from typing import NamedTuple

import numpy as np

from netsim.engine import _core
from netsim.engine.core.arrays import successors
from netsim.engine.core.fabric import FabricArrays
from netsim.workload.tasks import TaskColumns

NOW, RELEASED, EVENTS, DONE, UNITS, LAID, BUSY, IDLE, IDLE_UNITS, MET, MEETS, GATHERS, GATHERED = range(13)
"""Entries of `Progress.totals`: the time; released messages that have not begun; entries of the heap; tasks that are
done; occurrences of units, and their messages; when the last message arrives that is under way; the last moment at
which none was; occurrences before it; with `MEETING`, the occurrence that is met, and the message that meets it;
whether a unit takes in messages that are released while it is under way; the last moment at which one did."""

FINISHED, UNKNOWN, TOGETHER, MEETING, STUCK = range(5)
"""Why the loop stops: nothing is left to do; a message that is released alone has not been simulated; messages that are
released together, or soon, must be simulated as one unit; so must a message and a unit that it meets under way; a
message meets others in a manner that is not followed."""

_MOST_JOINED = 16
"""Most messages in a unit of messages that meet under way."""
_MEETINGS = 1 << 16
"""Entries of the hash table of meeting units; the driver gives up when half are in use."""


class Kinds(NamedTuple):
    """Messages that are released alone, by source, destination and size."""

    unit: np.ndarray  # unit of each kind
    binding: np.ndarray  # first entry of its links in `link`
    link: np.ndarray  # the links of kinds and of units, in the order in which `Units.link` counts them


class Progress(NamedTuple):
    """State of a program. T tasks, L links."""

    bytes: np.ndarray  # [T] payload
    delay_ps: np.ndarray  # [T] delay
    first_link: np.ndarray  # [T] link on which a task's host sends
    next_begin: np.ndarray  # [T + 1] rows of `next` of each task
    next: np.ndarray  # tasks that wait for it
    waits_for: np.ndarray  # [T] how many tasks it still waits for
    end_ps: np.ndarray  # [T] when it was done, or -1
    kind: np.ndarray  # [T] kind of the task's message, or -1
    released: np.ndarray  # [T] tasks that are released in this instant
    stack: np.ndarray  # [T + 1] scratch space
    event_ps: np.ndarray  # [T + 1] heap of times, from 1
    event: np.ndarray  # [T + 1] 2 task: its delay is over; 2 task + 1: its message has arrived
    due_ps: np.ndarray  # [T] when a task's message arrives
    free_ps: np.ndarray  # [L] when a link has served all units that have begun
    owner: np.ndarray  # [L] the last occurrence that uses a link
    seen_ps: np.ndarray  # [L] scratch space: the last instant in which a unit of one message was about to use a link
    unit: np.ndarray  # unit of each occurrence; -1 once it is part of another
    binding: np.ndarray  # first entry of its links in `Kinds.link`
    unit_ps: np.ndarray  # its release
    unit_begin: np.ndarray  # its first entry in `laid`
    laid: np.ndarray  # tasks of occurrences
    # Hash table of units that are a message and a unit that it meets: the latter's unit, the message's, and the time
    # between their releases
    joint: np.ndarray
    joint_unit: np.ndarray  # the unit of both; -1 if the entry is free
    totals: np.ndarray  # see above


class Ends(NamedTuple):
    """Destinations, sending links and link speeds of messages, and sizes of packets."""

    dst: np.ndarray  # [tasks] rank that receives
    link: np.ndarray  # [ranks] link on which the host of a rank sends
    byte_ps: np.ndarray  # [links] picoseconds a byte, on the wire
    payload: int  # largest payload of a packet
    header: int  # bytes added to each packet


def progress_of(columns: TaskColumns, fabric: FabricArrays, hosts: np.ndarray) -> Progress:
    """The state of a program before it begins."""
    tasks, links = len(columns.bytes), len(fabric.delay_ps)
    next_begin, following = successors(columns.after_begin, columns.after)
    room = 2 * tasks + 2 * _MOST_JOINED
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
    """Initial totals: all 0, except that no moment has gathered messages yet (-1)."""
    totals = np.zeros(13, dtype=np.int64)
    totals[GATHERED] = -1
    return totals


def _filled(size: int) -> np.ndarray:
    """An array of -1, which stands for none yet."""
    return np.full(size, -1, dtype=np.int64)


def wave(progress: Progress, ends: Ends) -> tuple[np.ndarray, np.ndarray]:
    """Messages released now, or while earlier messages still keep their hosts busy, and their releases in order.

    Nothing that is under way can change their releases. A host is busy for as long as it sends, or receives, its
    messages one after the other.
    """
    messages, found_ps = np.empty((2, len(progress.bytes)), dtype=np.int64)
    count = _core.gather_wave(progress, ends, messages, found_ps)
    return messages[:count], found_ps[:count]
