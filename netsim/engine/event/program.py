"""Begin, release and end of tasks in compiled code; see `netsim.engine.frontier`."""

import numpy as np

from netsim.engine.event.calendar import close, first_time, push, take_first
from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Program, Record, Whole

DONE = -1
"""Value of `waits_for` for a task that is done."""


@compiled
def begin_roots(program: Program, totals: Record) -> None:
    """Starts all tasks that wait for no other, from the last to the first, since successors come after a task."""
    for task in range(len(program.waits_for) - 1, -1, -1):
        if not program.waits_for[task]:
            _begin(program, totals, task, np.int64(0))


@compiled
def next_begin(program: Program, totals: Record, now: int) -> None:
    """Takes the first task from the heap: its delay is over, or its message has arrived."""
    what = program.begins[1].what
    take_first(program.begins)
    close(program.begins)
    if what & 1:
        _done(program, totals, what >> 1, now)
    else:
        _move(program, totals, what >> 1, now)


@compiled
def next_begin_ps(program: Program) -> Whole:
    """When `next_begin` has something to take."""
    return first_time(program.begins)


@compiled
def delivered(program: Program, task: int, end_ps: int) -> None:
    """A flow of a task completes at its receiver at `end_ps`, which may be in the future."""
    program.flows_left[task] -= 1
    program.end_ps[task] = max(program.end_ps[task], end_ps)
    if not program.flows_left[task]:
        push(program.begins, program.end_ps[task], np.int64(0), 2 * task + 1)


@compiled
def _begin(program: Program, totals: Record, task: int, now: int) -> None:
    """Starts a task that waits for nothing but its delay."""
    if program.delay_ps[task]:
        push(program.begins, now + program.delay_ps[task], np.int64(0), 2 * task)
    else:
        _move(program, totals, task, now)


@compiled
def _move(program: Program, totals: Record, task: int, now: int) -> None:
    """Releases a task's message; a task without one is done."""
    if program.bytes[task]:
        program.released[totals.released] = task
        totals.released += 1
    else:
        program.end_ps[task] = now
        _done(program, totals, task, now)


@compiled
def _done(program: Program, totals: Record, task: int, now: int) -> None:
    """Ends a task, and all tasks without delay and bytes that waited only for tasks that are now done."""
    program.stack[0] = task
    depth = 1
    while depth:
        depth -= 1
        done = program.stack[depth]
        totals.undone -= 1 - program.background[done]
        program.waits_for[done] = DONE
        for row in range(program.next_begin[done], program.next_begin[done + 1]):
            following = program.next[row]
            program.waits_for[following] -= 1
            if program.waits_for[following]:
                continue
            if program.delay_ps[following]:
                push(program.begins, now + program.delay_ps[following], np.int64(0), 2 * following)
            elif program.bytes[following]:
                program.released[totals.released] = following
                totals.released += 1
            else:
                program.end_ps[following] = now
                program.stack[depth] = following
                depth += 1
