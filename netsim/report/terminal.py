"""Output at the terminal: progress on stderr, the table on stdout."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from netsim.report.collectives import rollout_sentence
from netsim.report.tables import change_columns, changes, columns, recorded_sentence, table_rows
from netsim.simulation.results import Pair, Results, RunEvent

SECONDS_BETWEEN_LINES = 10.0
_WIDE = 240
"""Width in columns if the output is no terminal: enough for all columns of the table."""


@contextmanager
def watching() -> Iterator[Callable[[RunEvent], None]]:
    """Shows the progress of the comparison, and of each active run its time and how far it is, on stderr.

    On a terminal it is a display; elsewhere a line for each long run, now and then.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainLines(sys.stderr)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        total = progress.add_task("preparing")
        running: dict[tuple[str, int], TaskID] = {}
        hops = finished = 0

        def show(event: RunEvent) -> None:
            nonlocal hops, finished
            key = event.transport, event.seed
            if (state := _state(event)) is not None:
                progress.update(running[key], description=f"  {event.transport}, seed {event.seed}: {state}")
                return
            if event.run is None:
                running[key] = progress.add_task(f"  {event.transport}, seed {event.seed}")
            else:
                progress.remove_task(running.pop(key))
                hops += event.run.packet_hops
                finished += 1
            progress.update(total, description=f"{finished} of {event.runs} runs, {hops:,} packet-hops done")

        yield show


class PlainLines:
    """Prints a line for each long run, and again at intervals, for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next_s: dict[tuple[str, int], float] = {}

    def __call__(self, event: RunEvent) -> None:
        """Records the start of a run, or prints its progress."""
        key, now_s = (event.transport, event.seed), time.monotonic()
        if (state := _state(event)) is None:
            self._next_s[key] = now_s + SECONDS_BETWEEN_LINES
        elif now_s >= self._next_s[key]:
            self._next_s[key] = now_s + SECONDS_BETWEEN_LINES
            line = f"netsim compare: {event.transport}, seed {event.seed}: {state}"
            print(line, file=self._stream, flush=True)


def _state(event: RunEvent) -> str | None:
    """The state of a run in words; None when it starts and when it ends."""
    if event.pulse is not None:
        done = f"{event.pulse.done:,} of {event.pulse.tasks:,} tasks done"
        return f"{event.pulse.now_ps / 10**9:,.3f} ms simulated, {done}"
    return None


def print_table(results: Results) -> None:
    """Prints the comparison as a table."""
    table = Table(box=SIMPLE_HEAD)
    for index, column in enumerate(columns(results)):
        table.add_column(_in_two_lines(column.head), justify="right" if index else "left", no_wrap=True)
    for row in table_rows(results):
        table.add_row(*row)
    Console(width=None if Console().is_terminal else _WIDE, markup=False, emoji=False).print(table)
    for sentence in (recorded_sentence(results), rollout_sentence(results)):
        if sentence:
            print(sentence)


def print_changes(pair: Pair) -> None:
    """Prints how the transports complete in both simulations."""
    table = Table(box=SIMPLE_HEAD)
    for index, head in enumerate(change_columns(pair, "transport")):
        table.add_column(head, justify="right" if index else "left")
    for change in changes(pair):
        table.add_row(*change.cells())
    Console(width=None if Console().is_terminal else 160, markup=False, emoji=False).print(table)
    print(pair.said)


def _in_two_lines(head: str) -> str:
    return head.replace(", ", "\n", 1) if ", " in head else head.replace(" ", "\n", 1)
