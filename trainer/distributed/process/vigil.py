"""Naming the rank that does not come to a collective, before the backend ends the processes of those that wait.

NCCL ends a process whose collective took too long from a thread of its own, so that no line of Python sees why. Here a
thread of each rank tells the others in the store how far it has come, and compares.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch.distributed as dist

from trainer.distributed.process.debug import dump, in_vain
from trainer.distributed.process.flights import collective
from trainer.distributed.process.progress import OwnProgress, Progress, Reached, awaited, from_json, to_json

MOST_PAUSE_S = 5.0
"""Between two looks at the recorder."""
PAUSES = 20
"""Looks in the time that a collective may take."""
EARLY = 6
"""Pauses before the end of that time in which a rank gives up, so that all can do so."""


class _Vigil:
    """The thread of one rank. It uses the store through a connection of its own, and no process group."""

    def __init__(self, folder: Path, rank: int, store: Any, timeout_s: float) -> None:
        self._folder, self._rank, self._store = folder, rank, store
        self._pause_s = min(MOST_PAUSE_S, timeout_s / PAUSES)
        self._limit_s = timeout_s - EARLY * self._pause_s
        self._own = OwnProgress()
        self._since: dict[str, tuple[int, float]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vigil", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._pause_s):
            own = self._own.read()
            with contextlib.suppress(RuntimeError):  # without a store nobody is told, and the limit holds all the same
                self._store.set(_key(self._rank), to_json(own))
            group = self._overdue(own, time.monotonic())
            if group is not None:
                self._give_up(own, group)

    def _overdue(self, own: Progress, now: float) -> str | None:
        """The group whose first collective that has not ended has been the same for too long."""
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
            told = cache(self._told)
            absent = awaited(self._rank, told)
            reason = in_vain(what, absent)
            others = {rank: told(rank).get(group, Reached(0, 0)) for rank in own[group].ranks}
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

    def _told(self, rank: int) -> Progress:
        """What a rank told last; nothing if it never did."""
        key = _key(rank)
        return from_json(self._store.get(key)) if self._store.check([key]) else {}


@contextmanager
def vigil(folder: Path, rank: int, store: Any, timeout_s: float) -> Iterator[None]:
    """While entered, ends this process shortly before a collective has taken too long, and says who did not come.

    The launcher then starts the run again, as after a hang. The main thread does nothing for it. `store` is the one
    through which the ranks find each other; the backend would end the process after `timeout_s`.
    """
    if hasattr(store, "clone"):  # since torch 2.7; the main thread may hold the one connection for long
        store = store.clone()
        store.set_timeout(timedelta(seconds=MOST_PAUSE_S))
    watching = _Vigil(folder, rank, store, timeout_s)
    watching.start()
    try:
        yield
    finally:
        watching.end()


def vigil_over_run(folder: Path, rank: int, timeout_s: float) -> AbstractContextManager[None]:
    """The same inside a run's process groups, where the backend would end the process: not with gloo.

    Gloo raises an error in the main thread, which :func:`trainer.distributed.process.debug.dump_failure` takes.
    """
    if dist.get_world_size() == 1 or dist.get_backend() == "gloo":
        return nullcontext()
    return vigil(folder, rank, dist.distributed_c10d._get_default_store(), timeout_s)


def _key(rank: int) -> str:
    return f"progress_{rank}"
