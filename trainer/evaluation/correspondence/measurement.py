"""Figures of correspondences between held-out pairs of surfaces, their table and their page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table as TerminalTable

from netsim.foundation.page import Block, Facts, Figure, Section, Table, page
from trainer.evaluation.correspondence.matching import MatchedPair
from trainer.evaluation.correspondence.pictures import curves_svg, matrix_svg, pairs_png
from trainer.observe.measurement import Measurement

FORMAT = "flowfabric.correspondence/1"
UNKNOWN = "no correspondence of the pairs is known, so that nothing is measured; name it in data.pairs"
COLUMNS = ("from", "by", "error x 100", "up to the mirror x 100")


@dataclass(frozen=True)
class CorrespondenceMeasurement(Measurement):
    """Maps of all pairs that were measured; errors are of those whose true correspondence is known."""

    checkpoint: str
    pairs: Sequence[MatchedPair]

    @property
    def _known(self) -> list[MatchedPair]:
        return [pair for pair in self.pairs if pair.random is not None]

    @property
    def random(self) -> float | None:
        """Mean error of vertices drawn by area."""
        found = [pair.random for pair in self._known if pair.random is not None]
        return float(np.mean(found)) if found else None

    def rows(self) -> list[tuple[str, str, float, float | None]]:
        """Of each map what it begins with, how it is made, and its mean errors, plain and up to the mirror."""
        known = self._known
        if not known:
            return []
        rows = []
        # Landmarks need known points, of which a pair may have none.
        for number, one in enumerate(min((pair.matches for pair in known), key=len)):
            errors = [errors.mean() for pair in known if (errors := pair.matches[number].errors) is not None]
            mirrored = [pair.matches[number].mirrored for pair in known]
            up_to = [values.mean() for values in mirrored if values is not None]
            rows.append((one.begins, one.by, float(np.mean(errors)), float(np.mean(up_to)) if up_to else None))
        return rows

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "checkpoint": self.checkpoint,
            "pairs": [
                {"first": one.pair.first.name, "second": one.pair.second.name, "random_error": one.random}
                for one in self.pairs
            ],
            "random_error": self.random,
            "maps": [
                {"begins": begins, "by": by, "error": error, "error_up_to_mirror": mirrored}
                for begins, by, error, mirrored in self.rows()
            ],
        }

    def table(self) -> TerminalTable:
        title = f"Maps of {self.checkpoint} on {len(self.pairs)} pairs; errors in roots of the area"
        shown = TerminalTable(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, title=title, title_justify="left")
        columns, rows = self._written()
        for name in columns:
            shown.add_column(name, justify="left" if name in COLUMNS[:2] else "right", no_wrap=True)
        for row in rows:
            shown.add_row(*row)
        return shown

    def remarks(self) -> Sequence[str]:
        return (UNKNOWN,) if self.random is None else (f"vertices drawn by chance are off by {100 * self.random:.1f}",)

    def page(self, run_dir: Path, picture: bytes | None) -> str:
        del picture  # it has pairs of its own choice
        rows, known = self.rows(), self._known
        own = self.pairs[0].own
        finding = UNKNOWN.capitalize() + "."
        blocks: list[Block] = []
        if self.random is not None:
            (error,) = [row[2] for row in rows if row[:2] == (own.begins, own.by)]
            finding = f"Points are off by {100 * error:.2f} hundredths of the root of the area; by chance it would be "
            finding += f"{100 * self.random:.1f}."
            facts = [("Error x 100", f"{100 * error:.2f}", f"{own.begins}, {own.by}")]
            facts.append(("By chance", f"{100 * self.random:.1f}", "vertices drawn by area"))
            caption = "Mean length of the shortest path along edges to the true vertex, on surfaces of area 1."
            blocks = [Facts(facts), Table(*self._written(), caption)]
            blocks.append(Figure(curves_svg(known, mirrored=False), "Errors, cumulated.", half=True))
            if any(one.mirrored is not None for one in known[0].matches):
                about = "Errors up to the mirror, cumulated: left and right look alike from inside a surface."
                blocks.append(Figure(curves_svg(known, mirrored=True), about, half=True))
        pictures = [Figure(pairs_png([(one.pair, one.own) for one in self.pairs]), "Colours carried over.")]
        matrix = Figure(matrix_svg(self.pairs[0].carries), "The functional map of the first pair.", half=True)
        sections = [Section("At a glance", blocks)] if blocks else []
        sections += [Section("What is carried over", pictures), Section("Functional map", [matrix])]
        names = f"{len(self.pairs)} pairs; {self.checkpoint}"
        footer = "Every figure on this page is in the JSON of the same evaluation; nothing is loaded from a network."
        return page(f"What {run_dir} matches", finding, sections, kicker=names, footer=footer, verb="evaluate")

    def _written(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Columns and rows of a table, without the errors up to the mirror where there is none."""
        rows = [
            (begins, by, f"{100 * error:.2f}", "" if mirrored is None else f"{100 * mirrored:.2f}")
            for begins, by, error, mirrored in self.rows()
        ]
        shown = len(COLUMNS) if any(row[-1] for row in rows) else len(COLUMNS) - 1
        return COLUMNS[:shown], [row[:shown] for row in rows]
