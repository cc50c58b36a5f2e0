"""Ends a rank that hangs, and dumps what it is doing when SIGUSR1 asks."""

import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.distributed.process.debug import dump
from trainer.distributed.process.stop import SIGNALS, handled

LATE_S = 10.0
"""After a rank was told to stop; torchrun kills a rank after 30 s that another one keeps waiting."""


class Watchdog:
    """Ends a process that has finished no step for `timeout_s`, so that its launcher starts the run again.

    A thread waits, so that it also sees a main thread that is stuck in a collective. It wakes when a signal arrives:
    Python writes the number of the signal to a file descriptor even while the main thread cannot run a handler. A rank
    that was told to stop, as all are when one has failed, and does not end its step soon dumps what it is doing.

    Args:
        waking: end of a pipe that carries the numbers of arriving signals; closed: the end of the watch.
        next_in_line: end of another pipe that gets them as well; -1: there is none.
    """

    def __init__(self, folder: Path, rank: int, timeout_s: float | None, waking: int, next_in_line: int = -1) -> None:
        self._folder, self._rank, self._timeout_s, self._waking = folder, rank, timeout_s, waking
        self._next_in_line = next_in_line
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Notes that a step has ended."""
        self._last = time.monotonic()

    def join(self) -> None:
        """Waits for the thread, once the pipe is closed."""
        self._thread.join()

    def _watch(self) -> None:
        late = math.inf
        while True:
            hangs = math.inf if self._timeout_s is None else self._last + self._timeout_s
            now = time.monotonic()
            if now >= hangs:
                self._end()
            if now >= late:
                self._tell(f"told to stop and still in its step after {LATE_S:g} s")
                late = math.inf
            until = min(hangs, late)
            ready, _, _ = select.select([self._waking], [], [], None if until == math.inf else max(0.0, until - now))
            if not ready:
                continue
            numbers = os.read(self._waking, 1024)
            if not numbers:
                return
            if self._next_in_line != -1:
                os.write(self._next_in_line, numbers)
            if signal.SIGUSR1 in numbers:
                self._tell("asked by SIGUSR1")
            if any(number in numbers for number in SIGNALS):
                late = time.monotonic() + LATE_S

    def _end(self) -> None:
        stacks = self._tell(f"no step has ended for {self._timeout_s:g} s (guard.hang_timeout_s)")
        print(f"rank {self._rank} hangs and ends; see {stacks}", file=sys.stderr, flush=True)
        os._exit(1)

    def _tell(self, reason: str) -> Path | str:
        try:
            return dump(self._folder, self._rank, reason)
        except OSError as error:
            return f"nothing, for it could not be written ({error})"


@contextmanager
def watchdog(folder: Path, rank: int, timeout_s: float | None) -> Iterator[Watchdog]:
    """Watches the process while entered; SIGUSR1 then makes it dump what it is doing. Main thread only.

    `timeout_s` is the longest time between two steps, and until the first; None: no limit.
    """
    with handled([signal.SIGUSR1], lambda _number, _frame: None):  # the thread answers it
        waking, arriving = os.pipe()
        os.set_blocking(arriving, False)
        wakeup_before = signal.set_wakeup_fd(arriving, warn_on_full_buffer=False)
        watching = Watchdog(folder, rank, timeout_s, waking, wakeup_before)
        try:
            yield watching
        finally:
            signal.set_wakeup_fd(wakeup_before)
            os.close(arriving)
            watching.join()
            os.close(waking)
