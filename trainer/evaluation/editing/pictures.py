"""A picture and its edits as a grid, and the charts of edits, as SVG that is the same for the same figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from moe.report.figures import INK, STYLE, to_svg
from trainer.evaluation.editing.figures import EditFigures, Point, psnr
from trainer.sampling.edit_request import EditPlan
from trainer.sampling.edits import PictureEdits
from trainer.sampling.pictures import pixels

MOST_COLUMNS, MOST_ROWS = 12, 8
"""Classes and levels of a grid."""
WIDE, GAP, LEFT, WORDS = 11.0, 0.06, 1.85, 1.1
"""Inches of a grid, between its pictures, of what is on its left, and of the words beside its rows."""
LARGEST = 1.4
"""Inches of a picture in a grid of few."""
SOFT, ACCENT = "#5b6875", "#0072b2"
Image = NDArray[np.floating]
"""[C, H, W] from -1 to 1."""


def edit_grid(edits: PictureEdits, name: str, label: int | None, plan: EditPlan, salt: str) -> str:
    """Draws a picture on the left, and its edits: a row for each level, a column for each class; few classes are rows.

    `salt` differs between the figures of a page.
    """
    levels, classes = spread(len(plan.levels), MOST_ROWS), spread(len(plan.targets), MOST_COLUMNS)
    named = [Heading(f"{plan.level_name} {plan.levels[level]:g}") for level in levels] + [Heading("a fresh draw", SOFT)]
    columns = [
        Heading(plan.names[place] or "edited", ACCENT if plan.targets[place] == label else INK) for place in classes
    ]
    images = [[edits.edited[level, place].numpy() for place in classes] for level in levels]
    images.append([edits.fresh[place].numpy() for place in classes])
    if len(columns) < len(named):
        named, columns, images = columns, named, [list(row) for row in zip(*images, strict=True)]
    known = "" if label is None or not plan.names[0] else f", class {plan.class_name(label)}"
    left = [(f"source{known}", edits.picture.numpy()), ("drawn back from its noise", edits.reconstructed.numpy())]
    return _drawn(left, named, columns, images, name, salt)


class Heading(NamedTuple):
    """What stands beside a row or above a column, and its colour."""

    text: str
    colour: str = INK


def _drawn(
    left: Sequence[tuple[str, Image]],
    rows: Sequence[Heading],
    columns: Sequence[Heading],
    images: Sequence[Sequence[Image]],
    foot: str,
    salt: str,
) -> str:
    """Large images with words above them on the left, and a grid on the right."""
    ratio = images[0][0].shape[1] / images[0][0].shape[2]
    each = min(LARGEST, (WIDE - LEFT - WORDS) / len(columns) - GAP)
    large, top = LEFT - 0.35, 0.34
    height = max(top + len(rows) * (each * ratio + GAP), len(left) * (large * ratio + top)) + 0.2
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDE, height))

        def put(image: Image, x: float, y: float, width: float) -> None:
            """Shows an image whose upper left corner is at inches from the upper left corner of the figure."""
            high = width * ratio
            axes = figure.add_axes((x / WIDE, (height - y - high) / height, width / WIDE, high / height))
            axes.imshow(pixels(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color="#c9d1d8", linewidth=0.6)

        def write(text: str, x: float, y: float, **settings: str) -> None:
            settings = {"va": "center", "color": INK, **settings}
            figure.text(x / WIDE, 1 - y / height, text, fontsize=9.5, **settings)  # pyright: ignore[reportArgumentType]

        for place, (words, image) in enumerate(left):
            y = place * (large * ratio + top)
            write(words, 0, y + top / 2, weight="normal" if place else "bold", color=SOFT if place else INK)
            put(image, 0, y + top, large)
        write(foot, 0, height - 0.08, color=SOFT)
        for place, column in enumerate(columns):
            write(
                column.text, LEFT + WORDS + place * (each + GAP) + each / 2, top / 2, ha="center", color=column.colour
            )
        for place, (row, shown) in enumerate(zip(rows, images, strict=True)):
            y = top + place * (each * ratio + GAP)
            write(row.text, LEFT + WORDS - 0.1, y + each * ratio / 2, ha="right", color=row.colour)
            for number, image in enumerate(shown):
                put(image, LEFT + WORDS + number * (each + GAP), y, each)
        return to_svg(figure, salt)


def spread(num: int, most: int) -> Sequence[int]:
    """Numbers from 0 to `num` - 1, the first and the last among them, no more than `most`."""
    if num <= most:
        return range(num)
    return sorted({round(place * (num - 1) / (most - 1)) for place in range(most)})


CURVE, FLOOR, FRESH, GRID, FAINT = "#0072b2", "#5b6875", "#d55e00", "#e3e8ec", "#9aa7b3"
Offset = tuple[int, int]
"""Points to the right, and up."""


def plane_chart(figures: EditFigures, plan: EditPlan) -> str:
    """Draws error against editability: a curve through the levels, a faint one for each class, and both floors."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.6), layout="constrained")
        axes = figure.subplots()
        fresh, source, points = figures.fresh, figures.source, [one.all for one in figures.levels]
        ends = [(one.error, _share(one)) for one in (source, fresh)]
        axes.plot(*zip(*ends, strict=True), color=FRESH, linewidth=1.1, linestyle=(0, (1, 2)))
        if len(plan.targets) > 1:
            for column in range(len(plan.targets)):
                of_class = [point for one in figures.levels if (point := one.classes[column]) is not None]
                axes.plot(*_places(of_class), color=FAINT, lw=0.7, alpha=0.6)
        axes.plot(*_places(points), color=CURVE, marker="o", ms=6.5, linewidth=2.2, mec="white", mew=0.8)
        axes.plot(*ends[0], "s", color=FLOOR, ms=8, clip_on=False, zorder=4)
        axes.plot(*ends[1], "D", color=FRESH, ms=8, clip_on=False, zorder=4)
        reach = max([fresh.error, *(one.error for one in points)])
        axes.set(xlabel="error against the picture (mean squared)", ylabel="taken for the class asked for")
        axes.set(xlim=(-0.03 * reach, 1.06 * reach), ylim=(-0.04, 1.1))
        _label(axes, ends[0], "the picture itself", FLOOR, (12, -1))
        _label(axes, ends[1], "a fresh draw", FRESH, (6, -16), ha="right").set_bbox(
            {"fc": "white", "ec": "none", "pad": 1}
        )
        _label_levels(axes, figures, reach)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1.0]))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        return to_svg(figure)


def errors_chart(figures: EditFigures, plan: EditPlan) -> str:
    """Draws the error of each level, and that of a fresh draw, where no classifier has judged the edits."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.axhline(figures.fresh.error, color=FRESH, linewidth=1.2, linestyle=(0, (1, 2)), label="a fresh draw")
        axes.plot(
            [one.level for one in figures.levels], [one.all.error for one in figures.levels], color=CURVE, marker="o",
            ms=6.5, linewidth=2.2, label="edits",
        )  # fmt: skip
        axes.set(xlabel=plan.level_name, ylabel="error against the picture (mean squared)")
        axes.set_ylim(bottom=0)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False)
        return to_svg(figure)


def iterates_chart(lines: Sequence[tuple[str, Sequence[int], Sequence[float]]]) -> str:
    """Draws the PSNR of iterates against calls; a line has name, calls up to each iterate, and mean squared errors."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 3.7), layout="constrained")
        axes = figure.subplots()
        for (name, calls, errors), colour, marker in zip(lines, (CURVE, FRESH), "oD", strict=False):
            decibels = [psnr(error) for error in errors]
            axes.plot(calls, decibels, color=colour, marker=marker, ms=5, linewidth=2.0, label=name)
            for place in (0, len(decibels) - 1):
                axes.annotate(
                    f"{decibels[place]:.1f} dB", (calls[place], decibels[place]), (0, 7), textcoords="offset points",
                    color=colour, fontsize=9, ha="center",
                )  # fmt: skip
        axes.set(xlabel="calls of the network for one picture", ylabel="PSNR in dB, of states")
        axes.margins(x=0.08, y=0.14)
        axes.set_xlim(left=0)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="best")
        return to_svg(figure)


def _label_levels(axes: Axes, figures: EditFigures, reach: float) -> None:
    """Writes the level above the points of the curve, the ends first, and none over another or over a floor."""
    levels = figures.levels
    taken = [(figures.source.error / reach + 0.15, _share(figures.source))]
    for one in dict.fromkeys([levels[0], levels[-1], *levels]):
        place = (one.all.error / reach, _share(one.all))
        if all(abs(place[0] - x) > 0.065 or abs(place[1] - y) > 0.06 for x, y in taken):
            taken.append(place)
            _label(axes, (one.all.error, place[1]), f"{one.level:g}", CURVE, (-2, 8), ha="right")


def _label(
    axes: Axes, place: tuple[float, float], text: str, colour: str, offset: Offset, **settings: str
) -> Annotation:
    where = {"ha": "left", "va": "center", **settings}
    return axes.annotate(text, place, offset, textcoords="offset points", color=colour, fontsize=9.5, **where)  # pyright: ignore[reportArgumentType]


def _places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [one.error for one in points], [_share(one) for one in points]


def _share(point: Point) -> float:
    return 0.0 if point.editability is None else point.editability
