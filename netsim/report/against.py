"""The comparison of two traces: rows for the terminal, the page and the file."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape as plain
from rich.table import Table

from netsim.against import Pair
from netsim.report.page import Section, table
from netsim.report.summary import summarise


class Change(NamedTuple):
    """One transport under both traces; times are means over the seeds, us."""

    transport: str
    first_us: float
    second_us: float

    def cells(self) -> tuple[str, ...]:
        """Transport, both times and the change, as text."""
        change = self.second_us / self.first_us - 1 if self.first_us else 0.0
        return self.transport, f"{self.first_us / 1000:,.4f}", f"{self.second_us / 1000:,.4f}", f"{change:+.2%}"


def changes(pair: Pair) -> list[Change]:
    """Every transport of the scenario, in its order."""
    both = zip(summarise(pair.first), summarise(pair.second), strict=True)
    return [Change(first.name, first.mean_us, second.mean_us) for first, second in both]


def section(pair: Pair) -> Section:
    """What the page of the first trace says of the second."""
    _, other = pair.paths
    rows = [change.cells() for change in changes(pair)]
    note = f"{pair.gaps} The report of {other.name} is in the folder against."
    return Section(f"Against {other.name}", table(_head(pair), rows) + f'<p class="note">{escape(note)}</p>')


def print_changes(pair: Pair) -> None:
    """Prints the same."""
    printed = Table(box=SIMPLE_HEAD)
    for index, head in enumerate(_head(pair)):
        printed.add_column(plain(head), justify="right" if index else "left")
    for change in changes(pair):
        printed.add_row(*map(plain, change.cells()))
    Console(width=None if Console().is_terminal else 160).print(printed)
    print(pair.gaps)


def _head(pair: Pair) -> Sequence[str]:
    names = [path.name for path in pair.paths]
    names = names if names[0] != names[1] else [str(path) for path in pair.paths]
    return "transport", *(f"{name}, ms" for name in names), "change"
