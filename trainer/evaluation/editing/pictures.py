"""A picture and its edits, as a grid."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moe.report.figures import INK, STYLE, to_svg
from trainer.sampling.editing.files import PictureEdits, pixels
from trainer.sampling.editing.plan import EditPlan

MOST_COLUMNS, MOST_ROWS = 12, 8
"""Classes and levels of a grid."""
WIDE, GAP = 11.0, 0.06
"""Inches of a grid, and between its pictures."""
LARGEST = 1.2
"""Inches of a picture in a grid of few."""
SOFT, ACCENT = "#5b6875", "#0072b2"


def edit_grid(edits: PictureEdits, name: str, label: int | None, plan: EditPlan, salt: str) -> str:
    """Draws a picture on the left, and its edits: a row for each level, a column for each class.

    Args:
        edits: of the picture.
        name: of the picture.
        label: its class; None: not known.
        plan: the edits.
        salt: another one for each figure of a page.

    Returns:
        SVG markup.
    """
    levels, columns = spread(len(plan.levels), MOST_ROWS), spread(len(plan.targets), MOST_COLUMNS)
    left, words, top = 1.75, 1.15, 0.34
    ratio = edits.picture.shape[1] / edits.picture.shape[2]
    each = min(LARGEST, (WIDE - left - words) / len(columns) - GAP)
    tall = each * ratio
    rows = len(levels) + 1
    height = max(top + rows * (tall + GAP) + 0.14, 2 * (left - 0.35) * ratio + 0.9)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDE, height))

        def put(image: NDArray[np.floating], x: float, y: float, width: float) -> Axes:
            """Shows an image whose upper left corner is at inches from the upper left corner of the figure."""
            high = width * ratio
            axes = figure.add_axes((x / WIDE, (height - y - high) / height, width / WIDE, high / height))
            axes.imshow(pixels(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color="#c9d1d8", linewidth=0.6)
            return axes

        def write(text: str, x: float, y: float, **settings: object) -> None:
            figure.text(x / WIDE, 1 - y / height, text, **{"va": "center", "fontsize": 9.5, **settings})  # pyright: ignore[reportArgumentType]

        large = left - 0.35
        known = "" if label is None or not plan.names[0] else f", class {plan.class_name(label)}"
        write(f"source{known}", 0, 0.17, color=INK, weight="bold")
        put(edits.picture.numpy(), 0, top, large)
        below = top + large * ratio + 0.3
        write("drawn back from its noise", 0, below - 0.14, color=SOFT, fontsize=9)
        put(edits.reconstructed.numpy(), 0, below, large)
        for place, column in enumerate(columns):
            own = plan.targets[column] == label
            write(
                plan.names[column] or "edited", left + words + place * (each + GAP) + each / 2, 0.17, ha="center",
                color=ACCENT if own else INK, weight="bold" if own else "normal",
            )  # fmt: skip
        shown = [(f"{plan.level_name} {plan.levels[level]:g}", edits.edited[level].numpy()) for level in levels]
        for row, (words_of, images) in enumerate([*shown, ("a fresh draw", edits.fresh.numpy())]):
            y = top + row * (tall + GAP) + (0.08 if row == len(levels) else 0)
            write(words_of, left + words - 0.1, y + tall / 2, ha="right", color=SOFT if row == len(levels) else INK)
            for place, column in enumerate(columns):
                put(images[column], left + words + place * (each + GAP), y, each)
        figure.text(0, 0.01, name, fontsize=8, color=SOFT, va="bottom")
        return to_svg(figure, salt)


def spread(num: int, most: int) -> Sequence[int]:
    """Numbers from 0 to `num` - 1, the first and the last among them, no more than `most`."""
    if num <= most:
        return range(num)
    return sorted({round(place * (num - 1) / (most - 1)) for place in range(most)})
