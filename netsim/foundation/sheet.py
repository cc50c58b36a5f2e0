"""Sheets of pictures: columns with headings, words below each picture, names of the rows on the left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.chart import STYLE, svg_of
from netsim.foundation.marks import INK, RULE, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, GAP, LINE, TALLEST = 11.0, 0.09, 0.16, 1.5
"""Inches: width of a sheet, gap between pictures, height of a line of words, and of the tallest picture."""
LETTER = 0.085
"""Greatest width of a letter in inches."""
DOTS = 160
"""Dots of a picture per inch."""


@dataclass(frozen=True)
class Column:
    """Pictures below each other, [H, W] or [H, W, 3] from 0 to 1 and of one shape; None leaves a place empty."""

    title: str
    images: Sequence[NDArray[np.floating] | None]
    words: Sequence[str] = ()
    colour: str = INK


def sheet(columns: Sequence[Column], *, rows: Sequence[str] = (), colours: Sequence[str] = (), name: str) -> str:
    """Draws pictures of one shape as SVG, the same bytes for the same pictures.

    Args:
        columns: Equally many pictures each, from left to right.
        rows: Names of the rows, perhaps of several lines; none if empty.
        colours: Of these names; dark if empty.
        name: Makes the ids of the markup unique on a page.

    Returns:
        An `svg` element.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    left = max((LETTER * len(line) for row in rows for line in row.splitlines()), default=-GAP) + GAP
    height, width = next(image.shape[:2] for column in columns for image in column.images if image is not None)
    across = min((WIDE - left) / len(columns) - GAP, TALLEST * width / height)
    down = across * height / width
    lines = max((len(text.splitlines()) for column in columns for text in column.words), default=0)
    above = 1.7 * LINE if any(column.title for column in columns) else 0.0
    count = len(columns[0].images)
    whole = above + count * (down + GAP + LINE * lines)
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDE, whole))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for number, column in enumerate(columns):
            start = left + number * (across + GAP)
            title = _cut(column.title, across)
            _write(axes, start + across / 2, above / 2, title, column.colour, ha="center", weight="bold")
            for row, image in enumerate(column.images):
                top = above + row * (down + GAP + LINE * lines)
                if image is not None:
                    _show(axes, image, (start, start + across, top + down, top))
                for line, text in enumerate(column.words[row].splitlines() if column.words else ()):
                    where = start + across / 2, top + down + LINE * (line + 0.6)
                    _write(axes, *where, _cut(text, across), SOFT, ha="center", size=8.5)
        for row, text in enumerate(rows):
            middle = above + row * (down + GAP + LINE * lines) + down / 2
            _write(axes, 0, middle, text, colours[row] if colours else INK)
        axes.set(xlim=(0, WIDE), ylim=(whole, 0), aspect="auto")
        return svg_of(figure, dpi=DOTS)


def _show(axes: Axes, image: NDArray[np.floating], extent: tuple[float, float, float, float]) -> None:
    from matplotlib.patches import Rectangle

    axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest", aspect="auto")
    left, right, bottom, top = extent
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=RULE, linewidth=0.6))


def _write(axes: Axes, x: float, y: float, text: str, colour: str, **how: Any) -> None:
    axes.text(x, y, text, color=colour, va="center", **{"size": 9.5, **how})


def _cut(text: str, inches: float) -> str:
    """A text, or its end if it is too long for a width, since names of files differ at their ends."""
    most = max(4, int(1.15 * inches / LETTER))
    return text if len(text) <= most else f"…{text[1 - most :]}"
