"""Being told to stop."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""What torchrun hands on and schedulers send at the end; what SLURM sends before it with ``--signal=USR2@seconds``."""
EX_TEMPFAIL = 75
"""Exit code of a run that was told to stop, has saved, and wants to be started again (sysexits.h)."""


@contextmanager
def handled(numbers: Sequence[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While entered, signals go to a handler; afterwards to whatever they went to before. Main thread only.

    Args:
        numbers: of the signals.
        handler: called with the number of a signal and the interrupted frame.
    """
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


class StopRequest:
    """Whether this process was told to stop.

    Attributes:
        by: the signal that told it; None: none did.
    """

    def __init__(self) -> None:
        self.by: signal.Signals | None = None

    @property
    def made(self) -> bool:
        """Whether it was."""
        return self.by is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While entered, SIGTERM and SIGUSR2 make the request instead of ending the process; main thread only."""
        with handled(SIGNALS, self._make):
            yield

    def farewell(self, folder: Path, saved: str) -> str:
        """What is said at the end of a run that was told to stop, here or on another rank.

        Args:
            folder: of the run.
            saved: what is left for the next start, such as ``saved at step 15``.
        """
        by = "on another rank" if self.by is None else f"by {self.by.name}"
        return f"{folder}: told to stop {by}; {saved}; start it again to go on"

    def _make(self, number: int, _frame: FrameType | None) -> None:
        self.by = signal.Signals(number)
