"""What a person at a terminal sees: progress on stderr, the table on stdout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from netsim.report.comparison import COLUMNS, table_rows
from netsim.results import Results, RunEvent


@contextmanager
def watching() -> Iterator[Callable[[RunEvent], None]]:
    """Shows on stderr, if it is a terminal, which runs are under way and how many packet-hops are done."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        total = progress.add_task("preparing")
        running: dict[tuple[str, int], None] = {}
        hops = finished = 0

        def show(event: RunEvent) -> None:
            nonlocal hops, finished
            key = event.transport, event.seed
            if event.run is None:
                running[key] = None
            else:
                running.pop(key)
                hops += event.run.packet_hops
                finished += 1
            under_way = ", ".join(f"{transport} seed {seed}" for transport, seed in running)
            progress.update(total, description=f"{finished} runs, {hops:,} packet-hops done; {under_way}")

        yield show


def print_table(results: Results) -> None:
    """Prints the comparison as a table."""
    table = Table(box=SIMPLE_HEAD)
    for index, column in enumerate(COLUMNS):
        table.add_column(escape(column), justify="right" if index else "left", no_wrap=True)
    for row in table_rows(results):
        table.add_row(*map(escape, row))
    Console(width=None if Console().is_terminal else 120).print(table)
