"""The figures of searched grids for a terminal."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Table

from trainer.evaluation.steps.measured import Measured, ratio
from trainer.flow.sampler.grid import StepsFile


def grids_table(file: StepsFile, found: Measured) -> Table:
    """A row for each grid: how far its ends are from those of the fine grid, and where its steps end."""
    title = (
        f"steps against {file.made_by['nodes']} equal ones, guidance {file.guidance:g}, from {found.fresh:,} noises "
        "that no search has seen"
    )
    shown = Table(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, title=title, title_justify="left")
    shown.add_column("NFE", justify="right")
    shown.add_column("grid")
    for heading in ("error", "of uniform", "energy"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("times")
    for evaluations, kinds in found.grids.items():
        for place, (kind, figures) in enumerate(kinds.items(), start=1):
            shown.add_row(
                str(evaluations) if place == 1 else "",
                kind,
                f"{figures.error:.4g}",
                f"{ratio(figures.error, kinds['uniform'].error):.3f}",
                f"{figures.energy_distance:.4f}",
                " ".join(f"{time:.3g}" for time in figures.times),
                end_section=place == len(kinds),
            )
    return shown
