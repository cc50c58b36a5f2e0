"""A terminal without markup: a path or a setting such as ``[bold]`` is printed as it is written."""

import sys
import threading
import time
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text

_CLEAR = "\r\x1b[K"


class Terminal(Console):
    """A console of rich that interprets neither markup nor names of emoji in texts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """A spinner with a line, which may be replaced by ``update``."""
        return _Plain(status, console=self, **options)


class _Plain(Status):
    def __init__(self, status: RenderableType, **options: Any) -> None:
        super().__init__(_text(status), **options)

    def update(self, status: RenderableType | None = None, **options: Any) -> None:
        super().update(None if status is None else _text(status), **options)


def _text(status: RenderableType) -> RenderableType:
    return Text(status) if isinstance(status, str) else status


class Progress:
    """A line with the phase of long work and the seconds passed, which is replaced and in the end removed.

    It begins with the name of program and verb after some seconds, and is silent where the stream is no terminal.
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
        """Starts the clock."""
        self._began_s = time.monotonic()
        if self._stream.isatty():
            self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Removes the line, so that a result or an error stands alone."""
        self._done.set()
        if self._clock.is_alive():
            self._clock.join()
        with self._lock:
            if self._shown():
                self._stream.write(_CLEAR)
                self._stream.flush()

    def phase(self, text: str) -> None:
        """Shows the phase that begins, such as "counting 20,000 tokens"."""
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
                self._stream.write(f"{_CLEAR}{self._name}: {self._phase} ({passed_s:.0f} s)")
                self._stream.flush()

    def _shown(self) -> bool:
        return bool(self._phase) and self._stream.isatty() and time.monotonic() - self._began_s >= self._after_s
