"""What a benchmark of a method prints: its table, and each bar with what was measured for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Bar:
    """Something that a method has to show.

    Attributes:
        name: what, in words.
        measured: the figure, a mean over seeds as a rule.
        limit: what it is held against.
        at_least: whether the figure has to reach the limit; otherwise it must not exceed it.
    """

    name: str
    measured: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the method shows it."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


def by_figure(of_seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Rows of figures, each with a value for each seed, from the rows of each seed."""
    return {
        name: {figure: [found[name][figure] for found in of_seeds] for figure in figures}
        for name, figures in of_seeds[0].items()
    }


def show(title: str, rows: Mapping[str, Mapping[str, Sequence[float]]], bars: Sequence[Bar]) -> int:
    """Prints the figures of all runs and the bars.

    Args:
        title: what was trained on what.
        rows: name of a run to its figures, each with one value a seed.
        bars: in the order in which they are told.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    console = Console(width=140, highlight=False)
    columns = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    table = Table(title=f"{title}; mean (smallest to largest) over the seeds", title_justify="left")
    table.add_column("run")
    for column in columns:
        table.add_column(column, justify="right")
    for name, figures in rows.items():
        table.add_row(name, *(_cell(figures[column]) if column in figures else "" for column in columns))
    if rows:
        console.print(table)
    for bar in bars:
        relation = "at least" if bar.at_least else "at most"
        verdict = "met" if bar.met else "MISSED"
        console.print(f"{verdict:>6}  {bar.name}: {bar.measured:.4g}, {relation} {bar.limit:.4g}")
    return 0 if all(bar.met for bar in bars) else 1


def _cell(values: Sequence[float]) -> str:
    if len(values) == 1 or max(values) == min(values):
        return f"{values[0]:.4g}"
    return f"{fmean(values):.4g} ({min(values):.3g} to {max(values):.3g})"
