"""Being told to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""What torchrun hands on and schedulers send at the end; what SLURM sends before it with ``--signal=USR2@seconds``."""
EX_TEMPFAIL = 75
"""Exit code of a run that was told to stop, has saved, and wants to be started again (sysexits.h)."""


class StopRequest:
    """Whether this process was told to stop.

    Attributes:
        made: it was.
    """

    def __init__(self) -> None:
        self.made = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While entered, SIGTERM and SIGUSR2 make the request instead of ending the process; main thread only."""
        before = {number: signal.signal(number, self._make) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _make(self, _number: int, _frame: FrameType | None) -> None:
        self.made = True
