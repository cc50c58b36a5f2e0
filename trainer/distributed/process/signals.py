"""Signals: requests to stop a run, interrupts of a command, and the end of a process with its launcher."""

import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""What Ctrl-C sends; what torchrun hands on and schedulers send at the end; what SLURM sends before it with
``--signal=USR2@seconds``."""
EX_TEMPFAIL = 75
"""Exit code of a run that was stopped, has saved, and wants to be started again (sysexits.h)."""


@contextmanager
def handled(numbers: Sequence[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While entered, signals go to a handler; afterwards to whatever they went to before. Main thread only."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def woken(watch: Callable[[int, int], None], name: str) -> Iterator[None]:
    """While entered, a thread runs `watch`, which arriving signals wake; main thread only.

    The first argument of `watch` is the reading end of a pipe that carries the signals' numbers; `watch` must return
    when the pipe is closed. Python writes the numbers even while the main thread is inside a library and cannot run a
    handler. The second argument is the descriptor that received them before, -1 if there was none.
    """
    arrivals, arriving = os.pipe()
    os.set_blocking(arriving, False)
    before = signal.set_wakeup_fd(arriving, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, args=(arrivals, before), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(arriving)
        thread.join()
        os.close(arrivals)


def spoken(number: int) -> str:
    """Returns the name of a signal for a person, such as ``Ctrl-C``."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class StopRequest:
    """A request to stop this process, and the signal that made it."""

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    @property
    def made(self) -> bool:
        """Whether a signal has requested that this process stop."""
        return self.by is not None

    def listen(self) -> None:
        """From now on SIGINT, SIGTERM and SIGUSR2 make the request instead of ending the process; main thread only."""
        self._before = {number: signal.signal(number, self._make) for number in SIGNALS}

    def end(self) -> None:
        """Restores the handlers that the signals had before."""
        while self._before:
            signal.signal(*self._before.popitem())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listens while entered."""
        self.listen()
        try:
            yield
        finally:
            self.end()

    def farewell(self, folder: Path, saved: str, nodes: int = 1) -> str:
        """Returns the last line of a run after a stop request on any rank; `saved` is such as ``saved at step 15``."""
        by = "on another rank" if self.by is None else f"by {spoken(self.by)}"
        again = "start it again" if nodes == 1 else f"start all {nodes} nodes again"
        return f"{folder}: stopped {by}; {saved}; {again} to resume"

    def _make(self, number: int, _frame: FrameType | None) -> None:
        self.by = self.by or signal.Signals(number)


UNWIND_S = 5.0
"""Time for the main thread to clean up, which it cannot do while it waits inside a library."""
APART_S = 1.0
"""Least interval between two presses of Ctrl-C; a shorter one is the launcher forwarding the terminal's signal."""
HAND_ON_S = 0.2
"""Time for the main thread to forward the signal to its child processes."""


class _Interrupter:
    """Ends this process on a signal that no other handler takes, and on a second Ctrl-C.

    The main thread is interrupted, so that it closes files and deletes temporary ones. A second thread ends the process
    if the main thread does not.
    """

    def __init__(self, say: Callable[[str, int], None]) -> None:
        self.by: int | None = None
        self._say = say
        self._first_press: float | None = None

    def interrupt(self, number: int, _frame: FrameType | None) -> None:
        """Handles a signal in the main thread."""
        if self.by is None:
            self.by = number
            raise KeyboardInterrupt

    def watch(self, arrivals: int, _before: int) -> None:
        """Waits in a thread until the pipe is closed."""
        until: dict[int, float] = {}
        while True:
            left = min(until.values(), default=None)
            wait_s = None if left is None else max(0.0, left - time.monotonic())
            ready, _, _ = select.select([arrivals], [], [], wait_s)
            if not ready:
                number = min(until, key=until.__getitem__)
                del until[number]
                if signal.getsignal(number) == self.interrupt:  # the run may have begun to listen meanwhile
                    self._end(f"stopped by {spoken(number)}", number)
                continue
            numbers = os.read(arrivals, 1024)
            if not numbers:
                return
            for number in numbers:
                if self._pressed_again(number):
                    self._end("Ctrl-C a second time: ended at once", signal.SIGINT)
                if number in SIGNALS and signal.getsignal(number) == self.interrupt:
                    until.setdefault(number, time.monotonic() + UNWIND_S)

    def _pressed_again(self, number: int) -> bool:
        """Whether this signal is a second Ctrl-C, which torchrun passes on as SIGTERM; notes a first one."""
        again = (signal.SIGINT, signal.SIGTERM) if "TORCHELASTIC_RUN_ID" in os.environ else (signal.SIGINT,)
        now = time.monotonic()
        if self._first_press is not None:
            return number in again and now > self._first_press + APART_S
        if number == signal.SIGINT:
            self._first_press = now
        return False

    def _end(self, line: str, number: int) -> None:
        time.sleep(HAND_ON_S)
        self._say(line, number)
        sys.stderr.flush()
        os._exit(128 + number)


@contextmanager
def interruptible(say: Callable[[str, int], None]) -> Iterator[None]:
    """While entered, SIGINT, SIGTERM and SIGUSR2 end the code inside, unless it handles them itself.

    A second Ctrl-C ends the process at once, whichever code handles signals. Outside the main thread nothing changes.
    `say` prints a line such as ``stopped by Ctrl-C``; its second argument is the number of the signal, and another
    thread may call it. After a signal the code inside is left by an exception, and SystemExit with code 128 + number of
    the signal follows.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupter = _Interrupter(say)
    with woken(interrupter.watch, "interrupter"):
        try:
            with handled(SIGNALS, interrupter.interrupt):
                yield
        except BaseException as error:
            if interrupter.by is None:
                raise
            # Whatever came of it: ranks that are gone, a library that has caught the interrupt and raised its own.
            say(f"stopped by {spoken(interrupter.by)}", interrupter.by)
            raise SystemExit(128 + interrupter.by) from error


PR_SET_PDEATHSIG = 1
STAGE = "FLOWFABRIC_STAGE"
"""Variable that names the stage whose ranks these are: stages of one start share torchrun's store."""


def end_with_launcher() -> None:
    """Makes Linux kill this process as soon as the torchrun agent that started it is gone, for whatever reason.

    A rank whose agent was killed would otherwise continue, keep the run's folder and write to it beside its successor.
    Without torchrun nothing changes: a run in the background outlives its shell. Other systems have no such bond; there
    the lock on the run's folder keeps the successor out until the old rank has ended.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or sys.platform != "linux":
        return
    agent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != agent:  # it was killed before the system had the request
        os._exit(1)


def end_launcher() -> None:
    """Ends the torchrun agent that started this process, which would start refused ranks again as if they had failed.

    An agent that gets SIGTERM ends its ranks and tries no restart; torchrun has no exit code by which a rank could ask
    for that. A stage leaves it to the process that started it, which ends with the same exit code.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or STAGE in os.environ:
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this rank ends with an exit code of its own
    os.kill(os.getppid(), signal.SIGTERM)
