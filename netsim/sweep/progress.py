"""Progress of a sweep: on stderr as a bar or plain lines, and as metrics for Prometheus."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from netsim.foundation.refusal import Refusal


class Status(NamedTuple):
    """Progress of a sweep; finished cells and runs include earlier ones, packet-hops those of acknowledgements.

    `running` are cells, transports and seeds under way, in the order of the sweep; `checking`: no run has begun.
    """

    cells: int
    cells_done: int = 0
    cells_failed: int = 0
    runs: int = 0
    runs_done: int = 0
    packet_hops: int = 0
    running: tuple[tuple[str, str], ...] = ()
    checking: bool = False


Watcher = Callable[[Status], None]
"""Called whenever the status changes."""


HOST = "127.0.0.1"
_GAUGES = {
    "cells": ("cells", "Cells of the sweep."),
    "cells_done": ("cells_done", "Finished cells, earlier included."),
    "cells_failed": ("cells_failed", "Cells with a run that failed."),
    "runs": ("runs", "Runs of all cells."),
    "runs_done": ("runs_done", "Finished runs, earlier included."),
    "packet_hops": ("packet_hops_done", "Packets times the links they passed, in the runs that this process finished."),
}
"""Name and meaning of the metric for each number of `Status`."""


class Gauges:
    """Serves the progress of a sweep over HTTP on this machine, from a thread, with a metrics registry of its own."""

    def __init__(self, port: int) -> None:
        from prometheus_client import CollectorRegistry, Gauge, start_http_server

        self.registry = registry = CollectorRegistry()
        self._gauges = {
            field: Gauge(f"netsim_sweep_{name}", meaning, registry=registry)
            for field, (name, meaning) in _GAUGES.items()
        }
        meaning = "Unix time at which a run last began or ended; stands still when the sweep hangs."
        self._changed = Gauge("netsim_sweep_last_change_timestamp_seconds", meaning, registry=registry)
        self._running = Gauge("netsim_sweep_running", "1 for each run under way.", ["cell", "run"], registry=registry)
        try:
            self._server, self._thread = start_http_server(port, addr=HOST, registry=registry)
        except (OSError, OverflowError) as error:
            problem = f"cannot be served on ({port}, {getattr(error, 'strerror', None) or error})"
            remedy = "choose another port, or 0 for any free one"
            raise Refusal("command line", "--prometheus-port", problem, remedy) from None

    @property
    def url(self) -> str:
        """Address of the metrics page."""
        return f"http://{HOST}:{self._server.server_port}/metrics"

    def __call__(self, status: Status) -> None:
        for field, gauge in self._gauges.items():
            gauge.set(getattr(status, field))
        self._changed.set(time.time())
        self._running.clear()
        for cell, run in status.running:
            self._running.labels(cell, run).set(1)

    def close(self) -> None:
        """Frees the port and ends the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


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
    """Prints a line when the runs begin and every half minute, for logs."""

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
