"""Progress of a sweep on stderr: a bar if stderr is a terminal, otherwise a plain line now and then."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from netsim.observe.status import Status, Watcher

SECONDS_BETWEEN_LINES = 30.0
_MOST_RUNNING_SHOWN = 8


@contextmanager
def watching() -> Iterator[Watcher]:
    """A context that shows the progress of a sweep."""
    stream = sys.stderr
    if not stream.isatty():
        yield PlainLines(stream)
        return
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(file=stream), transient=True) as progress:
        task = progress.add_task("preparing", total=None)
        pace = _Pace()

        def show(status: Status) -> None:
            running = status.running[:_MOST_RUNNING_SHOWN]
            lines = [pace.line(status), *(f"  {cell}: {run}" for cell, run in running)]
            if len(status.running) > len(running):
                lines.append(f"  and {len(status.running) - len(running)} more")
            total, done = (None, 0) if status.checking else (status.runs, status.runs_done)
            progress.update(task, description="\n".join(lines), total=total, completed=done)

        yield show


class PlainLines:
    """A line when the runs begin and every half minute, for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._pace = stream, _Pace()
        self._next_s = -1.0

    def __call__(self, status: Status) -> None:
        now_s = time.monotonic()
        if not status.checking and now_s >= self._next_s:
            self._next_s = now_s + SECONDS_BETWEEN_LINES
            print(self._pace.line(status), file=self._stream, flush=True)


class _Pace:
    """Speed since the first run began."""

    def __init__(self) -> None:
        self._began: tuple[float, int] | None = None

    def line(self, status: Status) -> str:
        if status.checking:
            return f"checking {status.cells} cells"
        now_s = time.monotonic()
        self._began = self._began or (now_s, status.runs_done)
        passed_s, runs = now_s - self._began[0], status.runs_done - self._began[1]
        parts = [f"{status.cells_done} of {status.cells} cells", f"{status.runs_done} of {status.runs} runs"]
        if status.cells_failed:
            parts.append(f"{status.cells_failed} cells failed")
        if runs and passed_s > 0:
            left = timedelta(seconds=round(passed_s / runs * (status.runs - status.runs_done)))
            parts += [f"{status.packet_hops / passed_s:,.0f} packet-hops/s", f"{left} left"]
        return ", ".join(parts)
