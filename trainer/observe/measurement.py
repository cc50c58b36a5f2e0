"""The request of the evaluate verb to a task, and the result."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.box import SIMPLE
from rich.table import Table

from trainer.data import AnyConfig
from trainer.flow.control import AnyConfig as AnyControl

Progress = Callable[[str], None]
"""Reports the current work as a line of text."""
FOOTER = "Every figure on this page is in the JSON of the same evaluation; nothing is loaded from a network."
"""Last line of a measurement's page."""


@dataclass(frozen=True)
class MeasurementSpec:
    """Settings of a measurement.

    Attributes:
        evaluations: numbers of function evaluations of a sample, each 1 or more.
        num: samples of each set, 2 or more.
        likelihood: held-out examples whose likelihood is computed; 0: none.
        data: the real examples; None: those of the run.
        steps: file of searched grids, which are measured too.
        checkpoint: name of the checkpoint that is measured.
        features: file of a network on whose features samples are compared too.
        statistics: file of the real examples' feature statistics; None: computed from the compared examples.
        controls: change the field of a flow; None: the run's own.
    """

    evaluations: tuple[int, ...]
    num: int = 1000
    seed: int = 0
    likelihood: int = 0
    data: AnyConfig | None = None
    steps: Path | None = None
    checkpoint: str = ""
    features: Path | None = None
    statistics: Path | None = None
    controls: tuple[AnyControl, ...] | None = None


class Measurement(Protocol):
    """Figures about a trained network."""

    def to_dict(self) -> dict[str, Any]:
        """The figures as they are written to JSON."""
        ...

    def table(self) -> Table:
        """The figures for a terminal."""
        ...

    def remarks(self) -> Sequence[str]:
        """Lines below the table."""
        ...

    def page(self, run_dir: Path, picture: bytes | None) -> str | None:
        """The figures as one HTML page; None: there is no page.

        Args:
            run_dir: folder of the run.
            picture: a PNG of what the run draws, or None.
        """
        ...


def figures_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    words: int = 1,
    title: str = "",
    ends: Collection[int] = (),
) -> Table:
    """A table for a terminal: the first columns hold words, the others numbers; a line follows the rows of `ends`."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, title=title or None, title_justify="left")
    for place, heading in enumerate(columns):
        table.add_column(heading, justify="left" if place < words else "right", no_wrap=True)
    for place, row in enumerate(rows):
        table.add_row(*row, end_section=place in ends)
    return table
