"""What the evaluate verb shows of a policy that builds objects: a table, lines below it and a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from trainer.evaluation.pareto.figures import BEST, ParetoFigures, cell, preference
from trainer.observe.measurement import Measurement


@dataclass(frozen=True)
class ParetoMeasurement(Measurement):
    """The figures of a policy."""

    figures: ParetoFigures

    def to_dict(self) -> dict[str, Any]:
        """See `Measurement.to_dict`."""
        return self.figures.to_dict()

    def table(self) -> Table:
        """See `Measurement.table`; a row for each preference, and their mean."""
        found = self.figures
        title = f"{found.num:,} objects of {found.checkpoint} for each preference, exponent {found.exponent:g}"
        shown = Table(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, title=title, title_justify="left")
        columns = found.columns()
        shown.add_column(" ".join(found.names), no_wrap=True)
        for heading in columns:
            shown.add_column(heading, justify="right", no_wrap=True)
        for place, one in enumerate(found.preferences, start=1):
            cells = (cell(figure(one)) for figure in columns.values())
            shown.add_row(preference(one), *cells, end_section=place == len(found.preferences))
        shown.add_row("mean", *(cell(found.mean(figure)) for figure in columns.values()))
        return shown

    def remarks(self) -> list[str]:
        """See `Measurement.remarks`; the indicators of all preferences together, and what the columns are."""
        of, lines = self.figures.indicators, []
        built, even, whole = of["built"], of["even"], of.get("all")
        if self.figures.rewards_are:
            lines.append(f"rewards are {self.figures.rewards_are}")
        of_all = (
            "" if whole is None else f", {built['hypervolume'] / (whole['hypervolume'] or 1.0):.2%} of all objects'"
        )
        of_even = f"even choices: {even['hypervolume']:.4f}, {even['r2']:.4f}"
        lines.append(
            f"hypervolume {built['hypervolume']:.4f} above 0{of_all}; R2 {built['r2']:.4f} from 1, less is better "
            f"({of_even})"
        )
        lines.append(
            f"reward: mean by the preference; even: of even choices; best {BEST}: of the best distinct objects, whose "
            "mean distance is the diversity"
        )
        if whole is None:
            lines.append("there are too many objects to list: how near the policy is to what is wanted is not known")
        else:
            lines.append(
                "wanted: under the distribution that the run is to learn; TV: total variation of the policy's from it, "
                "exact"
            )
        return lines

    def page(self, run_dir: Path, picture: bytes | None) -> str:
        """See `Measurement.page`."""
        from trainer.evaluation.pareto.page import pareto_page  # matplotlib takes a second to import

        return pareto_page(self.figures, run_dir=str(run_dir), picture=picture if self.figures.has_picture else None)
