"""A picture and its edits, as a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moe.report.figures import INK, STYLE, to_svg
from trainer.sampling.editing.files import PictureEdits, pixels
from trainer.sampling.editing.plan import EditPlan

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
