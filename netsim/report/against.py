"""The comparison of two simulations: rows for the terminal and the page."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from netsim.report.page import Section, table
from netsim.report.summary import operations, summarise
from netsim.report.tables import algorithm_sections
from netsim.results import Pair


class Change(NamedTuple):
    """One transport, or an operation under it, in both; times are means over the seeds, us."""

    name: str
    first_us: float
    second_us: float

    def cells(self) -> tuple[str, ...]:
        """Name, both times and the change, as text."""
        change = self.second_us / self.first_us - 1 if self.first_us else 0.0
        return self.name, f"{self.first_us / 1000:,.4f}", f"{self.second_us / 1000:,.4f}", f"{change:+.2%}"


def changes(pair: Pair) -> list[Change]:
    """Every transport of the scenario, in its order."""
    both = zip(summarise(pair.first), summarise(pair.second), strict=True)
    return [Change(first.name, first.mean_us, second.mean_us) for first, second in both]


def operation_changes(pair: Pair) -> list[Change]:
    """Every operation that both workloads have, under each transport."""
    others = {kind.name: kind for kind in operations(pair.second)}
    return [
        Change(f"{kind.name}, {transport}", kind.mean_us(transport), others[kind.name].mean_us(transport))
        for kind in operations(pair.first)
        if kind.name in others
        for transport in kind.times_us
    ]


def sections(pair: Pair) -> list[Section]:
    """What the page of the first says of the second."""
    other = pair.names[1]
    rows = [change.cells() for change in changes(pair)]
    note = f"{pair.said} The report of {other} is in the folder against."
    parts = [table(_head(pair, "transport"), rows)]
    if by_operation := operation_changes(pair):
        parts.append("<p>Time of a rank in the collectives of each operation, with waiting for others:</p>")
        parts.append(table(_head(pair, "operation"), [change.cells() for change in by_operation]))
    found = [Section(f"Against {other}", "".join(parts) + f'<p class="note">{escape(note)}</p>')]
    for name, results in zip(pair.names, (pair.first, pair.second), strict=True):
        found += [Section(f"Algorithms: {name}", part.body) for part in algorithm_sections(results)]
    return found if pair.first.algorithms != pair.second.algorithms else found[:1]


def print_changes(pair: Pair) -> None:
    """Prints the same."""
    printed = Table(box=SIMPLE_HEAD)
    for index, head in enumerate(_head(pair, "transport")):
        printed.add_column(head, justify="right" if index else "left")
    for change in changes(pair):
        printed.add_row(*change.cells())
    Console(width=None if Console().is_terminal else 160, markup=False, emoji=False).print(printed)
    print(pair.said)


def _head(pair: Pair, of: str) -> Sequence[str]:
    return of, *(f"{name}, ms" for name in pair.names), "change"
