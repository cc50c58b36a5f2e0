"""Figures of correspondences between held-out pairs of surfaces, their pictures, table and page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table as TerminalTable
from torch import Tensor

from netsim.foundation.chart import Key, Panel, chart
from netsim.foundation.files import write_bytes
from netsim.foundation.marks import BLUE, DASHED, DEVIATIONS, DOTTED, GREY, INK, RED, SOLID, HeatMap, Line, Mark
from netsim.foundation.page import Block, Facts, Figure, Section, Table, page
from trainer.data.surface_files import Surface, write_surface
from trainer.data.surfaces import Pair
from trainer.evaluation.correspondence import Matched, MatchedPair, carried
from trainer.observe.measurement import FOOTER, Measurement, figures_table

Floats = NDArray[np.float64]
NO_COLOUR = 0.8
"""Grey of vertices that get no colour."""
LIGHT = np.array([0.4, 0.3, 0.87])
CURVE_UP_TO = 0.5
COLOURS = {"signatures": GREY, "features": BLUE, "distances to landmarks": RED}
DASHES = {"nearest neighbour": DOTTED, "functional map": "-.", "nearest upsampling": DASHED}


def colours_at(places: Floats, of: Surface) -> Floats:
    """Red, green and blue [V, 3] from 0 to 1 by the place on a surface; grey where it is not a number."""
    low, high = of.vertices.min(0), of.vertices.max(0)
    return np.nan_to_num((places - low) / np.maximum(high - low, 1e-12), nan=NO_COLOUR)


def show_pairs(matched: Sequence[tuple[Pair, Matched]], stem: Path) -> None:
    """Writes a PNG of pairs, a row each, and beside it the surfaces of each as PLY with their colours."""
    write_bytes(stem.with_suffix(".png"), pairs_png(matched))
    for number, (pair, own) in enumerate(matched):
        for name, side, places in carried(pair, own):
            file = stem.with_name(f"{stem.name}_{number}_{name.split(',')[-1].split()[-1]}.ply")
            colours = np.round(255 * colours_at(places, pair.first.surface)).astype(np.uint8)
            write_surface(file, side.surface, colours)


def pairs_png(matched: Sequence[tuple[Pair, Matched]]) -> bytes:
    """Returns a PNG of surfaces from their widest side, with colours carried from the first to the second."""
    from matplotlib.figure import Figure as Drawing

    figure = Drawing(figsize=(9.0, 3.4 * len(matched)), dpi=110, layout="constrained")
    for row, (pair, own) in zip(figure.subplots(len(matched), 3, squeeze=False), matched, strict=True):
        for axes in row:
            axes.set_axis_off()
        for axes, (name, side, places) in zip(row, carried(pair, own), strict=False):
            axes.add_collection(_drawn(side.surface, colours_at(places, pair.first.surface)))
            axes.set_aspect("equal")
            axes.autoscale_view()
            axes.set_title(name, fontsize=9, color=INK)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _drawn(surface: Surface, colours: Floats) -> Any:
    """Returns the shaded triangles of a surface, from the back to the front."""
    from matplotlib.collections import PolyCollection

    order = np.argsort(-np.ptp(surface.vertices, axis=0), kind="stable")
    up, across, depth = surface.vertices[:, order].T
    turned = np.stack([across, up, depth], axis=1)
    corners = turned[surface.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    shade = 0.6 + 0.4 * np.abs(normals @ LIGHT)
    shown = colours[surface.triangles].mean(1) * shade[:, None]
    behind = np.argsort(corners[:, :, 2].mean(1), kind="stable")
    return PolyCollection([*corners[behind][:, :, :2]], facecolors=shown[behind], edgecolors="face", linewidths=0.2)


def matrix_chart(carries: Tensor) -> str:
    """Draws the coefficients of a functional map, which is diagonal up to signs where it keeps distances."""
    values = HeatMap(carries.numpy(), DEVIATIONS, -1, 1, fill=False)
    panel = Panel([values], x="eigenfunction of the first", y="eigenfunction of the second", grid="")
    return chart([panel], size=(5.4, 4.4), name="matrix", key=Key("coefficient", DEVIATIONS, -1, 1))


def curves_chart(pairs: Sequence[MatchedPair], *, mirrored: bool) -> str:
    """Draws the share of points, over all pairs, whose error is at most some value."""
    at, lines = np.linspace(0, CURVE_UP_TO, 101), list[Mark]()
    for number, one in enumerate(pairs[0].matches):
        of_pairs = [pair.matches[number].mirrored if mirrored else pair.matches[number].errors for pair in pairs]
        errors = np.concatenate([values for values in of_pairs if values is not None])
        name, dash = f"{one.begins}, {one.by}", DASHES.get(one.by, SOLID)
        lines.append(Line(at, (errors[:, None] <= at).mean(0), COLOURS[one.begins], name, dash))
    x, limits = "error, in roots of the area", ((0, CURVE_UP_TO), (0, 1.01))
    panel = Panel(lines, x=x, y="share of points", x_limits=limits[0], y_limits=limits[1], legend="best", grid="both")
    return chart([panel], size=(5.4, 4.4), name="mirrored" if mirrored else "curves")


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
        errors = [pair.random for pair in self._known if pair.random is not None]
        return float(np.mean(errors)) if errors else None

    def rows(self) -> list[tuple[str, str, float, float | None]]:
        """For each map: the values it is made from, its method, and its mean errors, plain and up to the mirror."""
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
        columns, rows = self._written()
        return figures_table(columns, rows, title=title, words=2)

    def remarks(self) -> Sequence[str]:
        return (UNKNOWN,) if self.random is None else (f"vertices drawn by chance are off by {100 * self.random:.1f}",)

    def page(self, run_dir: Path, picture: bytes | None) -> str:
        del picture  # the page chooses its pairs
        known, finding, blocks = self._known, f"{UNKNOWN.capitalize()}.", list[Block]()
        own = self.pairs[0].own
        if self.random is not None:
            (error,) = [row[2] for row in self.rows() if row[:2] == (own.begins, own.by)]
            finding = f"Points are off by {100 * error:.2f} hundredths of the root of the area, on average over "
            finding += f"{len(known)} pairs; by chance it would be {100 * self.random:.1f}."
            facts = [("Error x 100", f"{100 * error:.2f}", f"{own.begins}, {own.by}")]
            facts.append(("By chance", f"{100 * self.random:.1f}", "vertices drawn by area"))
            caption = "Mean length of the shortest path along edges to the true vertex, on surfaces of area 1."
            blocks = [Facts(facts), Table(*self._written(), caption)]
            blocks.append(Figure(curves_chart(known, mirrored=False), "Errors, cumulated.", half=True))
            if any(one.mirrored is not None for one in known[0].matches):
                about = "Errors up to the mirror, cumulated: left and right look alike from inside a surface."
                blocks.append(Figure(curves_chart(known, mirrored=True), about, half=True))
        pictures = Figure(pairs_png([(one.pair, one.own) for one in self.pairs]), "Colours carried over.")
        matrix = Figure(matrix_chart(self.pairs[0].carries), "The functional map of the first pair.", half=True)
        sections = [Section("At a glance", blocks)] if blocks else []
        sections += [Section("Colours carried over by the map", [pictures]), Section("Functional map", [matrix])]
        kicker = f"{len(self.pairs)} pairs; {self.checkpoint}"
        return page(f"Matches of {run_dir}", finding, sections, kicker=kicker, footer=FOOTER, verb="evaluate")

    def _written(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Columns and rows of a table, without the errors up to the mirror where there is none."""
        rows = [
            (begins, by, f"{100 * error:.2f}", "" if mirrored is None else f"{100 * mirrored:.2f}")
            for begins, by, error, mirrored in self.rows()
        ]
        shown = len(COLUMNS) if any(row[-1] for row in rows) else len(COLUMNS) - 1
        return COLUMNS[:shown], [row[:shown] for row in rows]
