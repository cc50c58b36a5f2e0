"""Output at the terminal: progress on stderr, the table on stdout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from netsim.report.columns import columns, table_rows
from netsim.report.phases import rollout_sentence
from netsim.report.recorded import sentence
from netsim.results import Results, RunEvent

_WIDE = 240
"""Columns where the output is no terminal: enough for every column of the table."""


@contextmanager
def watching() -> Iterator[Callable[[RunEvent], None]]:
    """Shows the progress of the comparison and the time of each active run on stderr, if that is a terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        total = progress.add_task("preparing")
        running: dict[tuple[str, int], TaskID] = {}
        hops = finished = 0

        def show(event: RunEvent) -> None:
            nonlocal hops, finished
            key = event.transport, event.seed
            if event.run is None:
                running[key] = progress.add_task(f"  {event.transport}, seed {event.seed}")
            else:
                progress.remove_task(running.pop(key))
                hops += event.run.packet_hops
                finished += 1
            progress.update(total, description=f"{finished} of {event.runs} runs, {hops:,} packet-hops done")

        yield show


def print_table(results: Results) -> None:
    """Prints the comparison as a table."""
    table = Table(box=SIMPLE_HEAD)
    for index, column in enumerate(columns(results)):
        table.add_column(_in_two_lines(escape(column.head)), justify="right" if index else "left", no_wrap=True)
    for row in table_rows(results):
        table.add_row(*map(escape, row))
    Console(width=None if Console().is_terminal else _WIDE).print(table)
    if recorded := sentence(results):
        print(recorded)
    if rollouts := rollout_sentence(results):
        print(rollouts)


def _in_two_lines(head: str) -> str:
    return head.replace(", ", "\n", 1) if ", " in head else head.replace(" ", "\n", 1)
