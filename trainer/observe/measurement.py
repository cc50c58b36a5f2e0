"""What the evaluate verb asks of a task, and what it gets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.box import SIMPLE
from rich.table import Table

from trainer.data import AnyConfig

Progress = Callable[[str], None]
"""Is called with what is being done, for a person."""


@dataclass(frozen=True)
class MeasurementSpec:
    """How much is drawn and measured.

    Attributes:
        evaluations: numbers of function evaluations of a sample, each 1 or more.
        num: samples of each set, 2 or more.
        seed: of all draws.
        likelihood: held-out examples whose likelihood is computed; 0: none.
        data: the real examples; None: those of the run.
        checkpoint: name of the checkpoint that is measured.
    """

    evaluations: tuple[int, ...]
    num: int = 1000
    seed: int = 0
    likelihood: int = 0
    data: AnyConfig | None = None
    checkpoint: str = ""


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


@dataclass(frozen=True)
class Figures(Measurement):
    """Named figures without curves.

    Attributes:
        title: of their table.
        values: by name.
    """

    title: str
    values: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """See `Measurement.to_dict`."""
        return {"format": "flowfabric.figures/1", "title": self.title, "figures": dict(self.values)}

    def table(self) -> Table:
        """See `Measurement.table`."""
        shown = Table(box=SIMPLE, title=self.title, title_justify="left", show_edge=False)
        shown.add_column("figure")
        shown.add_column("value", justify="right")
        for name, value in self.values.items():
            shown.add_row(name, f"{value:.6g}")
        return shown

    def remarks(self) -> Sequence[str]:
        """See `Measurement.remarks`; there are none."""
        return ()

    def page(self, run_dir: Path, picture: bytes | None) -> str | None:  # noqa: ARG002
        """See `Measurement.page`; there is none."""
        return None
