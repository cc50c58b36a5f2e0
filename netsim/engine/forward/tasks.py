"""Tasks in compiled code: when they begin and when they are done, and the heap of both."""

from numba import njit

from netsim.engine.compiled.annotations import Integer
from netsim.engine.forward.state import DONE, EVENTS, RELEASED, Progress


@njit(cache=True)
def begin_task(progress: Progress, task: Integer, now: Integer) -> None:
    """Starts a task that waits for nothing but its delay."""
    if progress.delay_ps[task]:
        push(progress, now + progress.delay_ps[task], 2 * task)
    elif progress.bytes[task]:
        progress.released[progress.totals[RELEASED]] = task
        progress.totals[RELEASED] += 1
    else:
        end_task(progress, task, now)


@njit(cache=True)
def end_task(progress: Progress, task: Integer, now: Integer) -> None:
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
                push(progress, now + progress.delay_ps[following], 2 * following)
            elif progress.bytes[following]:
                progress.released[progress.totals[RELEASED]] = following
                progress.totals[RELEASED] += 1
            else:
                progress.stack[depth] = following
                depth += 1


@njit(cache=True)
def push(progress: Progress, time_ps: Integer, what: Integer) -> None:
    """Adds an event to the heap."""
    progress.totals[EVENTS] += 1
    place = progress.totals[EVENTS]
    while place > 1 and progress.event_ps[place >> 1] > time_ps:
        progress.event_ps[place], progress.event[place] = progress.event_ps[place >> 1], progress.event[place >> 1]
        place >>= 1
    progress.event_ps[place], progress.event[place] = time_ps, what


@njit(cache=True)
def take(progress: Progress) -> Integer:
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
