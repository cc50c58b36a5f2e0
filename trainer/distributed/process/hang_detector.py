"""Detection of hangs: a collective that ranks do not come to, a step that does not end."""

import contextlib
import json
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist

from trainer.distributed.process.debug import collective, dump, flights, group_names, in_vain, ranks_of
from trainer.distributed.process.signals import SIGNALS, handled, woken


class Reached(NamedTuple):
    """Numbers of a group's collectives that a rank has issued and that ended; `ranks` is empty if all have ended."""

    issued: int
    ended: int
    ranks: tuple[int, ...] = ()


Progress = Mapping[str, Reached]
"""Progress by torch's name of the group, which is the same on all of the group's ranks."""


class OwnProgress:
    """Reads the progress of this process from torch's flight recorder; any thread may."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._nameless: set[tuple[str, int]] = set()

    def read(self) -> Progress:
        """How far this process has come; empty where torch has no recorder."""
        progress_of = json.loads(flights(collectives=False) or b"{}").get("pg_status") or {}
        counts = {
            number: (int(status["last_enqueued_collective"]), int(status["last_completed_collective"]))
            for number, status in progress_of.items()
        }
        nameless = {(number, issued) for number, (issued, _) in counts.items() if number not in self._names}
        if nameless - self._nameless:  # the whole record is read only when it may have a further name
            self._names |= group_names()
            self._nameless = {(number, issued) for number, issued in nameless if number not in self._names}
        return {
            self._names[number]: Reached(issued, ended, tuple(ranks_of(self._names[number])) if issued > ended else ())
            for number, (issued, ended) in counts.items()
            if number in self._names
        }


def to_json(progress: Progress) -> str:
    """The message to the other ranks."""
    return json.dumps(progress, separators=(",", ":"))


def from_json(text: str | bytes) -> Progress:
    """Reads the progress in a message of another rank."""
    return {group: Reached(issued, ended, tuple(ranks)) for group, (issued, ended, ranks) in json.loads(text).items()}


def awaited(rank: int, progress_of: Callable[[int], Progress]) -> set[int]:
    """Returns the ranks that keep `rank` waiting and wait for none themselves; `told`: progress, {} if unknown.

    A rank waits for the ranks that have not issued its first unfinished collective. These may wait in turn, in the same
    group or in others.
    """
    causes: set[int] = set()
    seen, coming = {rank}, [rank]
    while coming:
        one = coming.pop()
        behind = {
            other
            for group, own in progress_of(one).items()
            if own.issued > own.ended
            for other in own.ranks
            if progress_of(other).get(group, Reached(0, 0)).issued <= own.ended
        }
        if not behind and one != rank:
            causes.add(one)
        coming += behind - seen
        seen |= behind
    return causes


MOST_PAUSE_S = 5.0
"""Longest interval between two reads of the recorder."""
PAUSES = 20
"""Looks in the time that a collective may take."""
EARLY = 6
"""Pauses before the end of that time in which a rank gives up, so that all can do so."""


class _HangDetector:
    """The thread of one rank. It uses the store through a connection of its own, and no process group."""

    def __init__(self, folder: Path, rank: int, store: Any, timeout_s: float) -> None:
        self._folder, self._rank, self._store = folder, rank, store
        self._pause_s = min(MOST_PAUSE_S, timeout_s / PAUSES)
        self._limit_s = timeout_s - EARLY * self._pause_s
        self._own = OwnProgress()
        self._since: dict[str, tuple[int, float]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hang_detector", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._pause_s):
            own = self._own.read()
            with contextlib.suppress(RuntimeError):  # without a store nobody is notified, but the limit holds
                self._store.set(_key(self._rank), to_json(own))
            group = self._overdue(own, time.monotonic())
            if group is not None:
                self._give_up(own, group)

    def _overdue(self, own: Progress, now: float) -> str | None:
        """Returns the group that has been in the same unfinished collective for too long; None if there is none."""
        for group, (issued, ended, _) in own.items():
            if issued <= ended:
                self._since.pop(group, None)
            elif self._since.get(group, (None, 0.0))[0] != ended:
                self._since[group] = ended, now
        waiting = {group: now - since for group, (_, since) in self._since.items()}
        longest = max(waiting, key=waiting.__getitem__, default=None)
        return longest if longest is not None and waiting[longest] >= self._limit_s else None

    def _give_up(self, own: Progress, group: str) -> None:
        what = collective(group, own[group].ended + 1)
        first = True
        try:
            progress_of = cache(self._progress_of)
            absent = awaited(self._rank, progress_of)
            reason = in_vain(what, absent)
            others = {rank: progress_of(rank).get(group, Reached(0, 0)) for rank in own[group].ranks}
            first = all(rank >= self._rank for rank, other in others.items() if other.issued > own[group].ended)
        except RuntimeError:
            reason = f"waited too long in {what}, and the store through which ranks find each other is gone"
        try:
            stacks: Path | str = dump(self._folder, self._rank, reason)
        except OSError as error:
            stacks = f"nothing, for it could not be written ({error})"
        if first:
            print(f"rank {self._rank} {reason}; see {stacks}", file=sys.stderr, flush=True)
        time.sleep(2 * self._pause_s)  # others look a little later
        os._exit(1)

    def _progress_of(self, rank: int) -> Progress:
        """Returns the progress that a rank sent last; empty if it has sent none."""
        key = _key(rank)
        return from_json(self._store.get(key)) if self._store.check([key]) else {}


@contextmanager
def hang_detector(folder: Path, rank: int, store: Any, timeout_s: float) -> Iterator[None]:
    """While entered, ends this process shortly before a collective has taken too long, and says who did not come.

    The launcher then starts the run again, as after a hang. A thread watches, so that the main thread may be stuck.
    `store` is the rendezvous store of the ranks. The backend would end the process after `timeout_s`.
    """
    if hasattr(store, "clone"):  # since torch 2.7; the main thread may hold the one connection for long
        store = store.clone()
        store.set_timeout(timedelta(seconds=MOST_PAUSE_S))
    watching = _HangDetector(folder, rank, store, timeout_s)
    watching.start()
    try:
        yield
    finally:
        watching.end()


def hang_detector_over_run(folder: Path, rank: int, timeout_s: float) -> AbstractContextManager[None]:
    """Like :func:`hang_detector`, inside a run's process groups; does nothing with gloo or on a single rank.

    Gloo itself raises an error in the main thread, which :func:`trainer.distributed.process.debug.dump_failure`
    handles.
    """
    if dist.get_world_size() == 1 or dist.get_backend() == "gloo":
        return nullcontext()
    return hang_detector(folder, rank, dist.distributed_c10d._get_default_store(), timeout_s)


def _key(rank: int) -> str:
    return f"progress_{rank}"


LATE_S = 10.0
"""After a rank was stopped; torchrun kills a rank after 30 s that another one keeps waiting."""


class Watchdog:
    """Ends a process that has finished no step for `timeout_s`, so that its launcher starts the run again.

    A thread waits, so that it also sees a main thread that is stuck in a collective. When one rank has failed, all are
    requested to stop. A rank that does not end its step soon after such a request dumps its state.
    """

    def __init__(self, folder: Path, rank: int, timeout_s: float | None) -> None:
        self._folder, self._rank, self._timeout_s = folder, rank, timeout_s
        self._last = time.monotonic()

    def beat(self) -> None:
        """Notes that a step has ended."""
        self._last = time.monotonic()

    def watch(self, waking: int, next_in_line: int) -> None:
        """Waits in a thread until the pipe is closed; passes signals' numbers on to the descriptor `next_in_line`."""
        late = math.inf
        while True:
            hangs = math.inf if self._timeout_s is None else self._last + self._timeout_s
            now = time.monotonic()
            if now >= hangs:
                self._end()
            if now >= late:
                self._report(f"still in its step {LATE_S:g} s after the request to stop")
                late = math.inf
            until = min(hangs, late)
            ready, _, _ = select.select([waking], [], [], None if until == math.inf else max(0.0, until - now))
            if not ready:
                continue
            numbers = os.read(waking, 1024)
            if not numbers:
                return
            if next_in_line != -1:
                os.write(next_in_line, numbers)
            if signal.SIGUSR1 in numbers:
                self._report("asked by SIGUSR1")
            if any(number in numbers for number in SIGNALS):
                late = time.monotonic() + LATE_S

    def _end(self) -> None:
        stacks = self._report(f"no step has ended for {self._timeout_s:g} s (guard.hang_timeout_s)")
        print(f"rank {self._rank} hangs and ends; see {stacks}", file=sys.stderr, flush=True)
        os._exit(1)

    def _report(self, reason: str) -> Path | str:
        try:
            return dump(self._folder, self._rank, reason)
        except OSError as error:
            return f"nothing, for it could not be written ({error})"


@contextmanager
def watchdog(folder: Path, rank: int, timeout_s: float | None) -> Iterator[Watchdog]:
    """Watches the process while entered; SIGUSR1 then makes it dump what it is doing. Main thread only.

    `timeout_s` is the longest time between two steps, and until the first; None: no limit.
    """
    watching = Watchdog(folder, rank, timeout_s)
    with (
        handled([signal.SIGUSR1], lambda _number, _frame: None),  # the thread answers it
        woken(watching.watch, "watchdog"),
    ):
        yield watching
