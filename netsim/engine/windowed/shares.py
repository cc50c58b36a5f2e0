"""Per-thread copies of those parts of the event engine's state that threads cannot share.

Threads deal with different hosts and switches, so that they may share the records of these. The first thread is the
leader: it alone lets tasks begin, for which it may have to let a host of another thread catch up.
"""

from typing import NamedTuple

import numpy as np

from netsim.engine.core.arrays import LINE_BYTES, heap, zeros
from netsim.engine.core.shared import record
from netsim.engine.event.state import Array, State
from netsim.engine.queue_series import INTERVALS

LEADER = 0
_COUNTS = ("packets", "hops", "control_hops", "dropped", "trimmed", "marked")


class Shares(NamedTuple):
    """Arrays with a row for each thread; that of the leader is the state's own. Fields as in `core/state.hpp`."""

    totals: Array
    longest: Array
    begins: Array
    timers: Array
    candidates: Array
    notes: Array
    frames: Array
    needs: Array


def rows(threads: int, size: int, dtype: np.dtype) -> np.ndarray:
    """`size` records for each thread, far enough apart that no two threads write to the same cache line."""
    between = -(-2 * LINE_BYTES // dtype.itemsize) if threads > 1 else 0
    return zeros(threads * (size + between), dtype).reshape(threads, size + between)


def shares_of(state: State, threads: int) -> Shares:
    """The shares of `threads` threads at the beginning of a run."""
    queued = state.queued
    nothing = np.zeros(0, dtype=np.int64)
    nobody = np.zeros(0, dtype=record("Notes"))
    scratch = (nobody, nothing, nothing) if queued is None else (queued.notes, queued.frames, queued.needs)
    shares = Shares(
        _copies(state.network.totals, threads),
        _copies(state.network.longest, threads),
        _heaps(state.program.begins[None], threads, len(state.program.begins)),
        _heaps(state.hosts.timers[None], threads, len(state.hosts.timers)),
        np.repeat(state.routing.candidates[None], threads, axis=0),
        *(_copies(array, threads) for array in scratch),
    )
    shares.totals["now_ps"][LEADER + 1 :] = 0
    return shares


def _copies(array: np.ndarray, threads: int) -> np.ndarray:
    copies = rows(threads, len(array), array.dtype)
    copies[:, : len(array)] = array
    return copies


def _heaps(known: np.ndarray, threads: int, entries: int) -> np.ndarray:
    """Copies heaps into longer ones; threads without a heap get an empty one."""
    longer, nothing = np.zeros((threads, entries), dtype=known.dtype), heap(0)
    longer[:, : len(nothing)] = nothing
    for of_thread, before in zip(longer, known, strict=False):
        used = int(before["time_ps"][0]) + len(nothing)
        of_thread[:used] = before[:used]
    return longer


def share_of(state: State, shares: Shares, thread: int) -> State:
    """The state with the arrays of one thread in place of the leader's."""
    totals, longest, begins, timers, candidates, notes, frames, needs = (array[thread] for array in shares)
    queued = state.queued
    return State(
        state.network._replace(totals=totals, longest=longest),
        state.hosts._replace(timers=timers),
        state.program._replace(begins=begins),
        state.routing._replace(candidates=candidates),
        None if queued is None else queued._replace(notes=notes, frames=frames, needs=needs),
    )


def with_longer_timers(shares: Shares, state: State) -> Shares:
    """The shares of a state whose heap of timers may have grown."""
    timers, entries = shares.timers, len(state.hosts.timers)
    if entries == timers.shape[1]:
        return shares
    return shares._replace(timers=_heaps(timers, len(timers), entries))


def add_up(shares: Shares) -> None:
    """Adds the counts of all threads to the leader's counts."""
    totals, longest = shares.totals[:, 0], shares.longest[:, :INTERVALS]
    for name in _COUNTS:
        totals[name][LEADER] = totals[name].sum()
    width_bits = int(totals["width_bits"].max())
    for row, of_thread in zip(longest, totals, strict=True):
        while of_thread["width_bits"] < width_bits:
            row[:] = np.concatenate([row.reshape(-1, 2).max(axis=1), np.zeros(INTERVALS // 2, dtype=row.dtype)])
            of_thread["used"] = (of_thread["used"] + 1) // 2
            of_thread["width_bits"] += 1
    longest[LEADER] = longest.max(axis=0)
    totals["used"][LEADER] = totals["used"].max()
