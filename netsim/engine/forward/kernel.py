"""The loop of a program in compiled code: which messages are released when, and which units they are."""

import numpy as np
from numba import njit

from netsim.engine.compiled.annotations import Integer
from netsim.engine.forward.occurrences import (
    NOBODY,
    SEVERAL,
    begin_unit,
    has_room,
    join,
    joint_of,
    may_join,
    whom_it_meets,
)
from netsim.engine.forward.state import (
    BUSY,
    EVENTS,
    GATHERED,
    GATHERS,
    IDLE,
    IDLE_UNITS,
    MEETS,
    MET,
    MOST_JOINED,
    NOW,
    RELEASED,
    UNITS,
    Kinds,
    Progress,
)
from netsim.engine.forward.tasks import begin_task, end_task, take
from netsim.engine.forward.unit import Units

FINISHED, UNKNOWN, TOGETHER, MEETING, STUCK = range(5)
"""Why `run` stops: nothing is left to do; a message that is released alone has not been simulated; messages that are
released together, or soon, must be simulated as one unit; so must a message and a unit that it meets under way; a
message meets others in a way that is not followed."""


@njit(cache=True)
def start(progress: Progress) -> None:
    """Begins the tasks that wait for none, from the last to the first, since those that wait for a task follow it."""
    for task in range(len(progress.waits_for) - 1, -1, -1):
        if not progress.waits_for[task]:
            begin_task(progress, task, np.int64(0))


@njit(cache=True)
def run(progress: Progress, units: Units, kinds: Kinds) -> Integer:
    """Carries out the program until it stops, and returns why."""
    totals = progress.totals
    while True:
        following = progress.event_ps[1] if totals[EVENTS] else np.int64(-1)
        if totals[RELEASED] and (following < 0 or following > totals[NOW]):
            _leave_out_begun(progress)
            if totals[NOW] >= totals[BUSY]:
                totals[IDLE], totals[IDLE_UNITS] = totals[NOW], totals[UNITS]
                if totals[GATHERS] and totals[GATHERED] != totals[NOW]:
                    totals[GATHERED] = totals[NOW]
                    return TOGETHER
            why = _begin_alone(progress, units, kinds)
            if why != FINISHED:
                return why
            continue
        if following < 0:
            return FINISHED
        totals[NOW] = following
        what = take(progress)
        task = what >> 1
        if what & 1:
            if progress.due_ps[task] == following and progress.end_ps[task] < 0:
                end_task(progress, task, following)
        elif progress.bytes[task]:
            progress.released[totals[RELEASED]] = task
            totals[RELEASED] += 1
        else:
            end_task(progress, task, following)


@njit(cache=True)
def _leave_out_begun(progress: Progress) -> None:
    """Leaves out released messages that have begun as parts of units, which say when they are released."""
    kept = 0
    for position in range(progress.totals[RELEASED]):
        task = progress.released[position]
        if progress.due_ps[task] < 0:
            progress.released[kept] = task
            kept += 1
    progress.totals[RELEASED] = kept


@njit(cache=True)
def _begin_alone(progress: Progress, units: Units, kinds: Kinds) -> Integer:
    """Begins the released messages as units of one message, unless two of them share a link."""
    totals, now = progress.totals, progress.totals[NOW]
    released = progress.released[: totals[RELEASED]]
    released.sort()
    why = FINISHED
    for position in range(len(released)):
        link = progress.first_link[released[position]]
        if progress.seen_ps[link] == now:
            why = TOGETHER
        progress.seen_ps[link] = now
    for position in range(len(released)):
        progress.seen_ps[progress.first_link[released[position]]] = -1
        if why == FINISHED and progress.kind[released[position]] < 0:
            why = UNKNOWN
    if why != FINISHED:
        return why
    for position in range(len(released)):
        kind = progress.kind[released[position]]
        unit, binding = kinds.unit[kind], kinds.binding[kind]
        for row in range(units.link_begin[unit], units.link_begin[unit + 1]):
            link = kinds.link[binding + units.link[row]]
            if progress.seen_ps[link] == now:
                why = TOGETHER
            progress.seen_ps[link] = now
    for position in range(len(released)):
        kind = progress.kind[released[position]]
        unit, binding = kinds.unit[kind], kinds.binding[kind]
        for row in range(units.link_begin[unit], units.link_begin[unit + 1]):
            progress.seen_ps[kinds.link[binding + units.link[row]]] = -1
    if why != FINISHED:
        return why
    for position in range(len(released)):
        kind = progress.kind[released[position]]
        met = whom_it_meets(progress, units, kinds, kind)
        if met == NOBODY:
            continue
        last = progress.unit_begin[met + 1] - 1
        if met == SEVERAL or last + 1 - progress.unit_begin[met] >= MOST_JOINED:
            return STUCK
        if progress.laid[last] > released[position]:
            return STUCK
        joint = joint_of(progress, kinds, met, kind)
        if joint < 0:
            totals[MET], totals[MEETS] = met, released[position]
            return MEETING
        if not may_join(progress, units, kinds.link, met, joint):
            return STUCK
    if not has_room(progress, len(released)):
        return STUCK
    totals[RELEASED] = 0
    for position in range(len(released)):
        kind = progress.kind[released[position]]
        met = whom_it_meets(progress, units, kinds, kind)
        if met == NOBODY:
            alone = released[position : position + 1]
            begin_unit(progress, units, kinds.link, kinds.unit[kind], kinds.binding[kind], now, alone)
        else:
            join(progress, units, kinds, met, released[position], kind)
    return FINISHED
