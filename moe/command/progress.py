"""What a long verb is doing, on the terminal: one line that is replaced and in the end removed."""

import sys
import threading
import time
from types import TracebackType
from typing import Self, TextIO

_CLEAR = "\r\x1b[K"


class Progress:
    """Shows the present phase and the seconds passed; silent while the work is short, and where nobody looks.

    Args:
        name: Name of the verb.
        stream: Where to write; stderr by default. Nothing is written unless it is a terminal.
        after_s: Seconds that pass before the first line.
    """

    def __init__(self, name: str, stream: TextIO | None = None, after_s: float = 2.0) -> None:
        self._name, self._after_s = name, after_s
        self._stream = sys.stderr if stream is None else stream
        self._phase = ""
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._clock = threading.Thread(target=self._tick, daemon=True)
        self._began_s = time.monotonic()

    def __enter__(self) -> Self:
        """Start the clock."""
        self._began_s = time.monotonic()
        if self._stream.isatty():
            self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the line, so that a result or an error stands alone."""
        self._done.set()
        if self._clock.is_alive():
            self._clock.join()
        with self._lock:
            if self._shown():
                self._stream.write(_CLEAR)
                self._stream.flush()

    def phase(self, text: str) -> None:
        """Name what comes next.

        Args:
            text: The phase, such as "counting 20,000 tokens".
        """
        self._phase = text
        self._show()

    def _tick(self) -> None:
        wait_s = self._after_s
        while not self._done.wait(wait_s):
            self._show()
            wait_s = 1.0

    def _show(self) -> None:
        with self._lock:
            if self._shown():
                passed_s = time.monotonic() - self._began_s
                self._stream.write(f"{_CLEAR}moe {self._name}: {self._phase} ({passed_s:.0f} s)")
                self._stream.flush()

    def _shown(self) -> bool:
        return bool(self._phase) and self._stream.isatty() and time.monotonic() - self._began_s >= self._after_s
