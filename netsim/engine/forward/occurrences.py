"""Occurrences of units in compiled code: where one begins, which one a message meets, and what both become."""

import numpy as np
from numba import njit

from netsim.engine.compiled.annotations import Integer
from netsim.engine.forward.state import BUSY, EVENTS, LAID, MOST_JOINED, NOW, UNITS, Kinds, Progress
from netsim.engine.forward.tasks import push
from netsim.engine.forward.unit import Units

NOBODY = -1
SEVERAL = -2
"""Whom a message meets: no occurrence, or more than one that it can be joined with."""


@njit(cache=True)
def place(
    progress: Progress,
    units: Units,
    links: np.ndarray,
    unit: Integer,
    binding: Integer,
    begin_ps: Integer,
    tasks: np.ndarray,
) -> bool:
    """Begins a unit; False, with nothing done, if a link that it uses is still in use."""
    for row in range(units.link_begin[unit], units.link_begin[unit + 1]):
        if begin_ps + units.first_ps[row] < progress.free_ps[links[binding + units.link[row]]]:
            return False
    begin_unit(progress, units, links, unit, binding, begin_ps, tasks)
    return True


@njit(cache=True)
def remember(progress: Progress, met: Integer, meets: Integer, after_ps: Integer, joint: Integer) -> None:
    """Notes the unit of a unit that is met and another that meets it."""
    entry = _entry(progress, met, meets, after_ps)
    progress.joint[entry, 0], progress.joint[entry, 1], progress.joint[entry, 2] = met, meets, after_ps
    progress.joint_unit[entry] = joint


@njit(cache=True)
def begin_unit(
    progress: Progress,
    units: Units,
    links: np.ndarray,
    unit: Integer,
    binding: Integer,
    begin_ps: Integer,
    tasks: np.ndarray,
) -> None:
    """Notes the beginning of a unit; see `place`."""
    totals = progress.totals
    occurrence, laid = totals[UNITS], totals[LAID]
    progress.unit[occurrence], progress.binding[occurrence], progress.unit_ps[occurrence] = unit, binding, begin_ps
    for row in range(units.link_begin[unit], units.link_begin[unit + 1]):
        link = links[binding + units.link[row]]
        progress.free_ps[link], progress.owner[link] = begin_ps + units.last_ps[row], occurrence
    progress.laid[laid : laid + len(tasks)] = tasks
    progress.unit_begin[occurrence + 1] = laid + len(tasks)
    totals[UNITS], totals[LAID] = occurrence + 1, laid + len(tasks)
    _await(progress, units, unit, begin_ps, tasks)


@njit(cache=True)
def _await(progress: Progress, units: Units, unit: Integer, begin_ps: Integer, tasks: np.ndarray) -> None:
    """Notes when the messages of a unit arrive; earlier notes of the same messages no longer count."""
    first = units.message_begin[unit]
    for position in range(len(tasks)):
        task, end = tasks[position], begin_ps + units.end_ps[first + position]
        if progress.end_ps[task] < 0 and progress.due_ps[task] != end:
            progress.due_ps[task] = end
            push(progress, end, 2 * task + 1)
        progress.totals[BUSY] = max(progress.totals[BUSY], end)


@njit(cache=True)
def joint_of(progress: Progress, kinds: Kinds, met: Integer, kind: Integer) -> Integer:
    """The unit of an occurrence and a message that meets it now, -1 if it has not been simulated."""
    after_ps = progress.totals[NOW] - progress.unit_ps[met]
    return progress.joint_unit[_entry(progress, progress.unit[met], kinds.unit[kind], after_ps)]


@njit(cache=True)
def _entry(progress: Progress, met: Integer, meets: Integer, after_ps: Integer) -> Integer:
    """The entry of the hash table that holds a key, or the free one where it belongs."""
    last = len(progress.joint_unit) - 1
    entry = ((met * 1_000_003 + meets) * 1_000_003 + after_ps) & last
    while progress.joint_unit[entry] >= 0 and (
        progress.joint[entry, 0] != met or progress.joint[entry, 1] != meets or progress.joint[entry, 2] != after_ps
    ):
        entry = (entry + 1) & last
    return entry


@njit(cache=True)
def whom_it_meets(progress: Progress, units: Units, kinds: Kinds, kind: Integer) -> Integer:
    """The occurrence whose packets a message would meet if it began now; one over the same links, else `SEVERAL`."""
    now, met = progress.totals[NOW], NOBODY
    unit, binding = kinds.unit[kind], kinds.binding[kind]
    for row in range(units.link_begin[unit], units.link_begin[unit + 1]):
        link = kinds.link[binding + units.link[row]]
        if now + units.first_ps[row] < progress.free_ps[link]:
            owner = progress.owner[link]
            if progress.binding[owner] != binding or (met != NOBODY and met != owner):
                return SEVERAL
            met = owner
    return met


@njit(cache=True)
def has_room(progress: Progress, messages: Integer) -> bool:
    """Whether so many messages may join others; arrays have room for several times as many entries as tasks."""
    totals, entries = progress.totals, MOST_JOINED * messages
    events = totals[EVENTS] + len(progress.bytes)
    return (
        totals[LAID] + entries < len(progress.laid)
        and totals[UNITS] + messages < len(progress.unit)
        and events + entries < len(progress.event)
    )


@njit(cache=True)
def may_join(progress: Progress, units: Units, links: np.ndarray, met: Integer, joint: Integer) -> bool:
    """Whether an occurrence still meets no other once it is part of a larger unit over the same links."""
    begin_ps, binding, unit = progress.unit_ps[met], progress.binding[met], progress.unit[met]
    own, own_end = units.link_begin[unit], units.link_begin[unit + 1]
    for row in range(units.link_begin[joint], units.link_begin[joint + 1]):
        link = links[binding + units.link[row]]
        while own < own_end and units.link[own] < units.link[row]:
            own += 1
        if own < own_end and units.link[own] == units.link[row]:
            if units.first_ps[row] < units.first_ps[own]:
                return False
            if progress.owner[link] != met and units.last_ps[row] != units.last_ps[own]:
                return False
        elif begin_ps + units.first_ps[row] < progress.free_ps[link]:
            return False
    return True


@njit(cache=True)
def join(progress: Progress, units: Units, kinds: Kinds, met: Integer, task: Integer, kind: Integer) -> None:
    """Replaces an occurrence by one of the larger unit that it and a message are."""
    totals, begin_ps, binding = progress.totals, progress.unit_ps[met], progress.binding[met]
    unit = joint_of(progress, kinds, met, kind)
    occurrence, laid = totals[UNITS], totals[LAID]
    for row in range(units.link_begin[unit], units.link_begin[unit + 1]):
        link = kinds.link[binding + units.link[row]]
        if progress.owner[link] == met or begin_ps + units.first_ps[row] >= progress.free_ps[link]:
            progress.free_ps[link], progress.owner[link] = begin_ps + units.last_ps[row], occurrence
    count = progress.unit_begin[met + 1] - progress.unit_begin[met]
    for position in range(count):
        progress.laid[laid + position] = progress.laid[progress.unit_begin[met] + position]
    progress.laid[laid + count] = task
    progress.unit[met] = -1
    progress.unit[occurrence], progress.binding[occurrence], progress.unit_ps[occurrence] = unit, binding, begin_ps
    progress.unit_begin[occurrence + 1] = laid + count + 1
    totals[UNITS], totals[LAID] = occurrence + 1, laid + count + 1
    _await(progress, units, unit, begin_ps, progress.laid[laid : laid + count + 1])
