"""The program's progress in compiled code: which messages are released when, and which units they are."""

from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.engine.compiled.annotations import Integer
from netsim.engine.forward.unit import Units

FINISHED, UNKNOWN, TOGETHER, MEETING, STUCK = range(5)
"""Why `run` stops: nothing is left to do; a message that is released alone has not been simulated; messages that are
released together must be simulated as one unit; so must a message and a unit that it meets under way; a message meets
others in a way that is not followed."""

NOW, RELEASED, EVENTS, DONE, UNITS, LAID, BUSY, IDLE, IDLE_UNITS, MET, MEETS = range(11)
"""Entries of `Progress.totals`: the time; released messages that have not begun; entries of the heap; tasks that are
done; occurrences of units, and their messages; when the last message arrives that is under way; the last moment at
which none was; occurrences before it; with `MEETING`, the occurrence that is met, and the message that meets it."""

NOBODY = -1
SEVERAL = -2
"""Whom a message meets: no occurrence, or more than one that it can be joined with."""

MOST_JOINED = 16
"""Most messages of a unit that meet under way."""


class Kinds(NamedTuple):
    """Messages that are released alone, by source, destination and size.

    Args:
        unit: Unit of each kind.
        binding: First entry of its links in `link`.
        link: The links of kinds and of units, in the order in which `Units.link` counts them.
    """

    unit: np.ndarray
    binding: np.ndarray
    link: np.ndarray


class Progress(NamedTuple):
    """State of a program. T tasks, L links.

    Args:
        bytes: [T] payload.
        delay_ps: [T] delay.
        first_link: [T] link on which a task's host sends.
        next_begin: [T + 1] rows of `next` of each task.
        next: Tasks that wait for it.
        waits_for: [T] how many tasks it still waits for.
        end_ps: [T] when it was done, or -1.
        kind: [T] kind of the task's message, or -1.
        released: [T] tasks that are released in this instant.
        stack: [T + 1] scratch space.
        event_ps: [T + 1] heap of times, from 1.
        event: [T + 1] 2 task: its delay is over; 2 task + 1: its message has arrived.
        due_ps: [T] when a task's message arrives.
        free_ps: [L] when a link has served all units that have begun.
        owner: [L] the last occurrence that uses a link.
        seen_ps: [L] scratch space: the last instant in which a unit of one message was about to use a link.
        unit: Unit of each occurrence; -1 once it is part of another.
        binding: First entry of its links in `Kinds.link`.
        unit_ps: Its release.
        unit_begin: Its first entry in `laid`.
        laid: Tasks of occurrences.
        joint: Hash table of units that are a message and a unit that it meets: the latter's unit, the message's, and
            the time between their releases.
        joint_unit: The unit of both; -1 if the entry is free.
        totals: See above.
    """

    bytes: np.ndarray
    delay_ps: np.ndarray
    first_link: np.ndarray
    next_begin: np.ndarray
    next: np.ndarray
    waits_for: np.ndarray
    end_ps: np.ndarray
    kind: np.ndarray
    released: np.ndarray
    stack: np.ndarray
    event_ps: np.ndarray
    event: np.ndarray
    due_ps: np.ndarray
    free_ps: np.ndarray
    owner: np.ndarray
    seen_ps: np.ndarray
    unit: np.ndarray
    binding: np.ndarray
    unit_ps: np.ndarray
    unit_begin: np.ndarray
    laid: np.ndarray
    joint: np.ndarray
    joint_unit: np.ndarray
    totals: np.ndarray


@njit(cache=True)
def successors(
    size_bytes: np.ndarray, after_begin: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the tasks that wait for each task, those tasks, and whether a task waits for a message."""
    tasks = len(after_begin) - 1
    begin, depends = np.zeros(tasks + 1, dtype=np.int64), np.zeros(tasks, dtype=np.bool_)
    for place in range(len(after)):
        begin[after[place] + 1] += 1
    for task in range(tasks):
        begin[task + 1] += begin[task]
    fill, following = begin[:-1].copy(), np.empty(len(after), dtype=np.int64)
    for task in range(tasks):
        for place in range(after_begin[task], after_begin[task + 1]):
            earlier = after[place]
            following[fill[earlier]] = task
            fill[earlier] += 1
            depends[task] |= size_bytes[earlier] > 0
    return begin, following, depends


@njit(cache=True)
def start(progress: Progress) -> None:
    """Begins the tasks that wait for none, from the last to the first, since those that wait for a task follow it."""
    for task in range(len(progress.waits_for) - 1, -1, -1):
        if not progress.waits_for[task]:
            _begin(progress, task, np.int64(0))


@njit(cache=True)
def run(progress: Progress, units: Units, kinds: Kinds) -> Integer:
    """Carries out the program until it stops, and returns why.

    Args:
        progress: State of the program.
        units: Results of units.
        kinds: Units of messages that are released alone.
    """
    totals = progress.totals
    while True:
        following = progress.event_ps[1] if totals[EVENTS] else np.int64(-1)
        if totals[RELEASED] and (following < 0 or following > totals[NOW]):
            if totals[NOW] >= totals[BUSY]:
                totals[IDLE], totals[IDLE_UNITS] = totals[NOW], totals[UNITS]
            why = _begin_alone(progress, units, kinds)
            if why != FINISHED:
                return why
            continue
        if following < 0:
            return FINISHED
        totals[NOW] = following
        what = _take(progress)
        task = what >> 1
        if what & 1:
            if progress.due_ps[task] == following and progress.end_ps[task] < 0:
                _done(progress, task, following)
        elif progress.bytes[task]:
            progress.released[totals[RELEASED]] = task
            totals[RELEASED] += 1
        else:
            _done(progress, task, following)


@njit(cache=True)
def place(
    progress: Progress, units: Units, links: np.ndarray, unit: Integer, binding: Integer, tasks: np.ndarray
) -> bool:
    """Begins a unit now; False, with nothing done, if a link that it uses is still in use.

    Args:
        progress: State of the program.
        units: Results of units.
        links: Links of bindings.
        unit: The unit.
        binding: Where its links begin.
        tasks: Its messages.
    """
    now = progress.totals[NOW]
    for row in range(units.link_begin[unit], units.link_begin[unit + 1]):
        if now + units.first_ps[row] < progress.free_ps[links[binding + units.link[row]]]:
            return False
    _place(progress, units, links, unit, binding, tasks)
    return True


@njit(cache=True)
def remember(progress: Progress, met: Integer, meets: Integer, after_ps: Integer, joint: Integer) -> None:
    """Notes the unit of a unit that is met and another that meets it."""
    entry = _entry(progress, met, meets, after_ps)
    progress.joint[entry, 0], progress.joint[entry, 1], progress.joint[entry, 2] = met, meets, after_ps
    progress.joint_unit[entry] = joint


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
        met = _whom_it_meets(progress, units, kinds, kind)
        if met == NOBODY:
            continue
        last = progress.unit_begin[met + 1] - 1
        if met == SEVERAL or last + 1 - progress.unit_begin[met] >= MOST_JOINED:
            return STUCK
        if progress.laid[last] > released[position]:
            return STUCK
        joint = progress.joint_unit[_entry(progress, progress.unit[met], kinds.unit[kind], now - progress.unit_ps[met])]
        if joint < 0:
            totals[MET], totals[MEETS] = met, released[position]
            return MEETING
        if not _may_join(progress, units, kinds.link, met, joint):
            return STUCK
    if not _has_room(progress, len(released)):
        return STUCK
    totals[RELEASED] = 0
    for position in range(len(released)):
        kind = progress.kind[released[position]]
        met = _whom_it_meets(progress, units, kinds, kind)
        if met == NOBODY:
            alone = released[position : position + 1]
            _place(progress, units, kinds.link, kinds.unit[kind], kinds.binding[kind], alone)
        else:
            _join(progress, units, kinds, met, released[position], kind)
    return FINISHED


@njit(cache=True)
def _has_room(progress: Progress, messages: Integer) -> bool:
    """Whether so many messages may join others; arrays have room for several times as many entries as tasks."""
    totals, entries = progress.totals, MOST_JOINED * messages
    events = totals[EVENTS] + len(progress.bytes)
    return (
        totals[LAID] + entries < len(progress.laid)
        and totals[UNITS] + messages < len(progress.unit)
        and events + entries < len(progress.event)
    )


@njit(cache=True)
def _whom_it_meets(progress: Progress, units: Units, kinds: Kinds, kind: Integer) -> Integer:
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
def _may_join(progress: Progress, units: Units, links: np.ndarray, met: Integer, joint: Integer) -> bool:
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
def _join(progress: Progress, units: Units, kinds: Kinds, met: Integer, task: Integer, kind: Integer) -> None:
    """Replaces an occurrence by one of the larger unit that it and a message are."""
    totals, begin_ps, binding = progress.totals, progress.unit_ps[met], progress.binding[met]
    unit = progress.joint_unit[_entry(progress, progress.unit[met], kinds.unit[kind], totals[NOW] - begin_ps)]
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


@njit(cache=True)
def _place(
    progress: Progress, units: Units, links: np.ndarray, unit: Integer, binding: Integer, tasks: np.ndarray
) -> None:
    """Notes the beginning of a unit."""
    totals, now = progress.totals, progress.totals[NOW]
    occurrence, laid = totals[UNITS], totals[LAID]
    progress.unit[occurrence], progress.binding[occurrence], progress.unit_ps[occurrence] = unit, binding, now
    for row in range(units.link_begin[unit], units.link_begin[unit + 1]):
        link = links[binding + units.link[row]]
        progress.free_ps[link], progress.owner[link] = now + units.last_ps[row], occurrence
    progress.laid[laid : laid + len(tasks)] = tasks
    progress.unit_begin[occurrence + 1] = laid + len(tasks)
    totals[UNITS], totals[LAID] = occurrence + 1, laid + len(tasks)
    _await(progress, units, unit, now, tasks)


@njit(cache=True)
def _await(progress: Progress, units: Units, unit: Integer, begin_ps: Integer, tasks: np.ndarray) -> None:
    """Notes when the messages of a unit arrive; earlier notes of the same messages no longer count."""
    first = units.message_begin[unit]
    for position in range(len(tasks)):
        task, end = tasks[position], begin_ps + units.end_ps[first + position]
        if progress.end_ps[task] < 0 and progress.due_ps[task] != end:
            progress.due_ps[task] = end
            _push(progress, end, 2 * task + 1)
        progress.totals[BUSY] = max(progress.totals[BUSY], end)


@njit(cache=True)
def _begin(progress: Progress, task: Integer, now: Integer) -> None:
    """Starts a task that waits for nothing but its delay."""
    if progress.delay_ps[task]:
        _push(progress, now + progress.delay_ps[task], 2 * task)
    elif progress.bytes[task]:
        progress.released[progress.totals[RELEASED]] = task
        progress.totals[RELEASED] += 1
    else:
        _done(progress, task, now)


@njit(cache=True)
def _done(progress: Progress, task: Integer, now: Integer) -> None:
    """Ends a task, and all tasks without delay and bytes that waited only for tasks that are now done."""
    progress.stack[0] = task
    depth = 1
    while depth:
        depth -= 1
        ended = progress.stack[depth]
        progress.end_ps[ended] = now
        progress.totals[DONE] += 1
        for row in range(progress.next_begin[ended], progress.next_begin[ended + 1]):
            following = progress.next[row]
            progress.waits_for[following] -= 1
            if progress.waits_for[following]:
                continue
            if progress.delay_ps[following]:
                _push(progress, now + progress.delay_ps[following], 2 * following)
            elif progress.bytes[following]:
                progress.released[progress.totals[RELEASED]] = following
                progress.totals[RELEASED] += 1
            else:
                progress.stack[depth] = following
                depth += 1


@njit(cache=True)
def _push(progress: Progress, time_ps: Integer, what: Integer) -> None:
    """Adds an event to the heap."""
    progress.totals[EVENTS] += 1
    place = progress.totals[EVENTS]
    while place > 1 and progress.event_ps[place >> 1] > time_ps:
        progress.event_ps[place], progress.event[place] = progress.event_ps[place >> 1], progress.event[place >> 1]
        place >>= 1
    progress.event_ps[place], progress.event[place] = time_ps, what


@njit(cache=True)
def _take(progress: Progress) -> Integer:
    """Takes the first event from the heap; the order within an instant does not matter."""
    first, size = progress.event[1], progress.totals[EVENTS] - 1
    progress.totals[EVENTS] = size
    time_ps, what = progress.event_ps[size + 1], progress.event[size + 1]
    place = 1
    while 2 * place <= size:
        child = 2 * place
        if child < size and progress.event_ps[child + 1] < progress.event_ps[child]:
            child += 1
        if progress.event_ps[child] >= time_ps:
            break
        progress.event_ps[place], progress.event[place] = progress.event_ps[child], progress.event[child]
        place = child
    progress.event_ps[place], progress.event[place] = time_ps, what
    return first
