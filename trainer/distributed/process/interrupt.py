"""How a command ends that is told to stop: in one line and soon, whatever its main thread is doing."""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from trainer.distributed.process.stop import SIGNALS, handled, spoken

UNWIND_S = 5.0
"""For the main thread to tidy up, which it cannot do while it waits inside a library."""
APART_S = 1.0
"""Between two presses of Ctrl-C: launchers hand on what the terminal has sent already."""
HAND_ON_S = 0.2
"""For the main thread to hand the signal on to processes that it has started."""


class _Interrupter:
    """Ends this process when a signal arrives that nothing else listens to, and when Ctrl-C is pressed a second time.

    The main thread is interrupted, so that files are closed and temporary ones deleted. A thread looks after it: Python
    writes the numbers of signals to a pipe even while the main thread is inside a library and cannot run a handler.
    """

    def __init__(self, say: Callable[[str, int], None], arrivals: int) -> None:
        self.by: int | None = None
        self._say, self._arrivals = say, arrivals
        self._first_press: float | None = None
        self._thread = threading.Thread(target=self._watch, name="interrupter", daemon=True)
        self._thread.start()

    def interrupt(self, number: int, _frame: FrameType | None) -> None:
        """Handles a signal in the main thread."""
        if self.by is None:
            self.by = number
            raise KeyboardInterrupt

    def join(self) -> None:
        """Waits for the thread, once the pipe is closed."""
        self._thread.join()

    def _watch(self) -> None:
        until: dict[int, float] = {}
        while True:
            left = min(until.values(), default=None)
            wait_s = None if left is None else max(0.0, left - time.monotonic())
            ready, _, _ = select.select([self._arrivals], [], [], wait_s)
            if not ready:
                number = min(until, key=until.__getitem__)
                del until[number]
                if signal.getsignal(number) == self.interrupt:  # the run may have begun to listen meanwhile
                    self._end(f"told to stop by {spoken(number)}", number)
                continue
            numbers = os.read(self._arrivals, 1024)
            if not numbers:
                return
            for number in numbers:
                if self._pressed_again(number):
                    self._end("Ctrl-C a second time: ended at once", signal.SIGINT)
                if number in SIGNALS and signal.getsignal(number) == self.interrupt:
                    until.setdefault(number, time.monotonic() + UNWIND_S)

    def _pressed_again(self, number: int) -> bool:
        """Whether Ctrl-C has come before; torchrun hands the second one on as SIGTERM."""
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
    """While entered, SIGINT, SIGTERM and SIGUSR2 end what is inside, unless that listens itself.

    A second Ctrl-C ends the process at once, whoever listens. Outside the main thread nothing changes. `say` prints a
    line such as ``told to stop by Ctrl-C``; it gets the signal's number too, and may be called by another thread.
    Ends by SystemExit 128 + number of the signal; what is inside has been left by an exception.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrivals, arriving = os.pipe()
    os.set_blocking(arriving, False)
    before = signal.set_wakeup_fd(arriving, warn_on_full_buffer=False)
    interrupter = _Interrupter(say, arrivals)
    try:
        with handled(SIGNALS, interrupter.interrupt):
            yield
    except BaseException as error:
        if interrupter.by is None:
            raise
        # Whatever came of it: other ranks that are gone, a library that has caught the interrupt and raised its own.
        say(f"told to stop by {spoken(interrupter.by)}", interrupter.by)
        raise SystemExit(128 + interrupter.by) from error
    finally:
        signal.set_wakeup_fd(before)
        os.close(arriving)
        interrupter.join()
        os.close(arrivals)
