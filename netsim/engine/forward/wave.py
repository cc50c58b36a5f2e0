"""Messages whose release is known before it comes, in compiled code: those that wait for delays alone."""

from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.engine.compiled.annotations import Integer
from netsim.engine.forward.state import EVENTS, NOW, RELEASED, Progress


class Ends(NamedTuple):
    """Where messages leave and arrive, and how fast."""

    dst: np.ndarray  # [tasks] rank that receives
    link: np.ndarray  # [ranks] link on which the host of a rank sends
    byte_ps: np.ndarray  # [links] picoseconds a byte, on the wire
    payload: int  # largest payload of a packet
    header: int  # bytes added to each packet


@njit(cache=True)
def wave(progress: Progress, ends: Ends) -> tuple[np.ndarray, np.ndarray]:
    """Messages, by release, that are released now or while those before them still keep their hosts busy.

    Nothing that is under way can change their releases. A host is busy for as long as it sends, or receives, its
    messages one after the other. The progress is as before at the end.
    """
    now, tasks = progress.totals[NOW], len(progress.bytes)
    found, found_ps = np.empty(tasks, np.int64), np.empty(tasks, np.int64)
    busy_ps, until_ps, count = np.zeros((2, len(ends.byte_ps)), np.float64), np.float64(now), 0
    delays = np.empty(progress.totals[EVENTS] + 1, np.int64)
    pending = 0
    for place in range(1, progress.totals[EVENTS] + 1):
        if not progress.event[place] & 1:
            delays[pending] = place
            pending += 1
    delays = delays[:pending]
    delays = delays[np.argsort(progress.event_ps[delays], kind="mergesort")]
    for position in range(progress.totals[RELEASED]):
        found[count], found_ps[count] = progress.released[position], now
        until_ps = max(until_ps, _busy(progress, ends, busy_ps, found[count], now))
        count += 1
    stack, depth, undo, undone = progress.stack, 0, np.empty(64, np.int64), 0
    for place in delays:
        time_ps, task = progress.event_ps[place], progress.event[place] >> 1
        if time_ps >= until_ps:
            break
        first = count
        if progress.bytes[task]:
            if progress.due_ps[task] < 0:
                found[count] = task
                count += 1
        else:
            stack[depth] = task
            depth += 1
        while depth:
            depth -= 1
            ended = stack[depth]
            for row in range(progress.next_begin[ended], progress.next_begin[ended + 1]):
                following = progress.next[row]
                if undone == len(undo):
                    undo = np.concatenate((undo, np.empty_like(undo)))
                undo[undone] = following
                undone += 1
                progress.waits_for[following] -= 1
                if progress.waits_for[following] or progress.delay_ps[following]:
                    continue
                if not progress.bytes[following]:
                    stack[depth] = following
                    depth += 1
                elif progress.due_ps[following] < 0:
                    found[count] = following
                    count += 1
        for position in range(first, count):
            found_ps[position] = time_ps
            until_ps = max(until_ps, _busy(progress, ends, busy_ps, found[position], time_ps))
    for position in range(undone):
        progress.waits_for[undo[position]] += 1
    return found[:count].copy(), found_ps[:count].copy()


@njit(cache=True)
def _busy(progress: Progress, ends: Ends, busy_ps: np.ndarray, task: Integer, release_ps: Integer) -> float:
    """Until when both hosts of a message are busy at least, which is noted."""
    size = progress.bytes[task]
    wire = size + (size + ends.payload - 1) // ends.payload * ends.header
    until_ps = np.float64(0)
    for end, link in enumerate((np.int64(progress.first_link[task]), np.int64(ends.link[ends.dst[task]]))):
        busy_ps[end, link] = max(busy_ps[end, link], np.float64(release_ps)) + wire * ends.byte_ps[link]
        until_ps = max(until_ps, busy_ps[end, link])
    return until_ps
