"""Child processes: run with signals passed on, or ended with the process that started them."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, Self

from trainer.distributed.process.signals import PR_SET_PDEATHSIG, SIGNALS, handled

HANDED_ON = (*SIGNALS, signal.SIGUSR1)
"""The signals that stop a run, and the one that asks it what it is doing."""
POLL_S = 0.2


class Stopped(Exception):  # noqa: N818  it was asked for
    """This process has been requested to stop, and starts no further processes."""


@dataclass
class _Child:
    """A child process (None while it is being started), and the signals that arrived before it was started."""

    process: subprocess.Popen[bytes] | None = None
    early: list[int] = field(default_factory=list)


class Supervisor:
    """Runs processes, several at a time if its caller has several threads, and passes arriving signals on."""

    def __init__(self, numbers: Sequence[int] = HANDED_ON) -> None:
        self.received: set[int] = set()
        self._numbers = numbers
        self._children: list[_Child] = []
        self._lock = threading.RLock()  # reentrant: a signal may interrupt the thread that starts a process

    @property
    def told_to_stop(self) -> bool:
        """Whether one of :data:`trainer.distributed.process.signals.SIGNALS` has arrived."""
        return not self.received.isdisjoint(SIGNALS)

    @contextmanager
    def listening(self) -> Iterator[Self]:
        """While entered, signals are passed on, also to a process that is just being started; main thread only."""
        with handled(self._numbers, self.pass_on):
            yield self

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: IO[bytes] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> int:
        """Runs a process to its end; its exit code, or the negative number of the signal that ended it.

        Args:
            output: file for its standard output and error; None: those of this process.
            meanwhile: called again and again while it runs.

        Raises:
            Stopped: this process has already been requested to stop.
        """
        child = _Child()
        with self._lock:
            if self.told_to_stop:
                raise Stopped
            self._children.append(child)
        try:
            with self._lock:
                process = subprocess.Popen(
                    list(command),
                    env=dict(environment),
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C comes through this process alone, and once
                )
                child.process = process
                while child.early:
                    process.send_signal(child.early.pop(0))
            while meanwhile is not None and process.poll() is None:
                meanwhile()
                time.sleep(POLL_S)
            return process.wait()
        finally:
            with self._lock:
                self._children.remove(child)

    def pass_on(self, number: int, _: FrameType | None = None) -> None:
        """Passes a signal on to every child process; after a signal to stop, no further process is started."""
        with self._lock:
            self.received.add(number)
            for child in self._children:
                if child.process is not None:
                    child.process.send_signal(number)
                elif number in SIGNALS:  # SIGUSR1 would end a process that does not listen yet
                    child.early.append(number)


def killed_with_parent(command: Sequence[str]) -> list[str]:
    """The same command, but Linux kills it as soon as the calling process is gone. Other systems let it continue."""
    return [sys.executable, "-m", "trainer.distributed.process.children", str(os.getpid()), *command]


def main(arguments: Sequence[str]) -> None:
    """Replaces this process by a command; `arguments` are the id of the process to end with, then the command."""
    parent, command = int(arguments[0]), list(arguments[1:])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # outlives the execve below
        if os.getppid() != parent:  # it was gone before the system had the request
            raise SystemExit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
