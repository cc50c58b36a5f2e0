"""The figures of edits for a terminal."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Table

from trainer.config.run import RunConfig
from trainer.evaluation.editing.figures import EditFigures, Point
from trainer.sampling.editing.plan import EditPlan


def edits_table(figures: EditFigures, plan: EditPlan, config: RunConfig) -> Table:
    """A row for each level, and rows for the pictures themselves and for fresh draws."""
    judged = figures.source.editability is not None
    title = f"edits of {figures.num} pictures, guidance {plan.guidance:g}" + (
        f", to {len(plan.targets)} class{'es' * (len(plan.targets) > 1)}" if config.data.num_classes else ""
    )
    shown = Table(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, title=title, title_justify="left")
    held = plan.held is not None
    columns = [plan.level_name, "error", "PSNR in dB", *(["error held"] if held else [])]
    columns += [*(["of the class"] if judged else []), "network calls"]
    for place, heading in enumerate(columns):
        shown.add_column(heading, justify="left" if place == 0 else "right", no_wrap=True)

    def row(name: str, point: Point, held_error: float | None, calls: int, *, last: bool = False) -> None:
        cells = [name, f"{point.error:.4f}", f"{point.psnr:.1f}"]
        cells += ["" if held_error is None else f"{held_error:.2g}"] if held else []
        cells += [f"{point.editability:.1%}"] if point.editability is not None else []
        shown.add_row(*cells, f"{calls:,}", end_section=last)

    for place, one in enumerate(figures.levels, start=1):
        calls = figures.calls.inversion + one.calls
        row(f"{one.level:g}", one.all, one.held_error, calls, last=place == len(figures.levels))
    row("the picture", figures.source, None, 0)
    row("a fresh draw", figures.fresh, None, figures.calls.drawing)
    return shown
