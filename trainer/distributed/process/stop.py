"""Being told to stop."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""What Ctrl-C sends; what torchrun hands on and schedulers send at the end; what SLURM sends before it with
``--signal=USR2@seconds``."""
EX_TEMPFAIL = 75
"""Exit code of a run that was told to stop, has saved, and wants to be started again (sysexits.h)."""


@contextmanager
def handled(numbers: Sequence[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While entered, signals go to a handler; afterwards to whatever they went to before. Main thread only."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def spoken(number: int) -> str:
    """A signal as a person knows it, such as ``Ctrl-C``."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class StopRequest:
    """Whether this process was told to stop, and by which signal."""

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    @property
    def made(self) -> bool:
        """Whether it was."""
        return self.by is not None

    def listen(self) -> None:
        """From now on SIGINT, SIGTERM and SIGUSR2 make the request instead of ending the process; main thread only."""
        self._before = {number: signal.signal(number, self._make) for number in SIGNALS}

    def end(self) -> None:
        """From now on they go to whatever they went to before."""
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
        """Last line of a run that was told to stop, here or on another rank; `saved` such as ``saved at step 15``."""
        by = "on another rank" if self.by is None else f"by {spoken(self.by)}"
        again = "start it again" if nodes == 1 else f"start all {nodes} nodes again"
        return f"{folder}: told to stop {by}; {saved}; {again} to go on"

    def _make(self, number: int, _frame: FrameType | None) -> None:
        self.by = self.by or signal.Signals(number)
