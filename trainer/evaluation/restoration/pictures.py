"""Restored pictures beside what was observed, and beside the truth where it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from moe.files import replacing
from moe.report.figures import INK, STYLE, to_svg
from trainer.evaluation.restoration.figures import power
from trainer.sampling.restoration.restoring import variance

SOFT = "#5b6875"
HIDDEN = "#e7a33e"
"""Colour of hidden pixels, which is no grey."""
PSEUDO_INVERSE, RESTORED, MEAN = "#d55e00", "#0072b2", "#009e73"


@dataclass(frozen=True)
class Column:
    """Pictures below each other.

    Attributes:
        title: above them.
        images: [C, H, W] of each row, -1 black and 1 full; None: there is nothing to show.
        words: below each.
        colour: of the title.
    """

    title: str
    images: Sequence[NDArray[np.floating] | None]
    words: Sequence[str]
    colour: str = INK


def columns_of(found: Sequence[Mapping[str, Tensor]]) -> list[Column]:
    """The columns of a page.

    Args:
        found: results of each picture that is shown.
    """
    observed = [_observed(one) for one in found]
    columns = [Column("observed", observed, [""] * len(found))]
    titles = ["pseudo-inverse", *(f"sample {number + 1}" for number in range(len(found[0]["restored"]))), "mean"]
    colours = [PSEUDO_INVERSE, *[RESTORED] * (len(titles) - 2), MEAN]
    for place, (title, colour) in enumerate(zip(titles, colours, strict=True)):
        images = [_shown(one, place) for one in found]
        columns.append(Column(title, images, [_words(one, place) for one in found], colour))
    if "truth" in found[0]:
        columns.append(Column("truth", [one["truth"].numpy() for one in found], [""] * len(found)))
    return columns


def uncertainty_of(found: Sequence[Mapping[str, Tensor]]) -> list[NDArray[np.floating]]:
    """The standard deviation [H, W] of the samples of each picture, over the samples and on average over channels."""
    return [variance(one["restored"]).mean(0).sqrt().numpy() for one in found]


def picture_rows(columns: Sequence[Column], spreads: Sequence[NDArray[np.floating]]) -> str:
    """Draws pictures, a row each, with their figures below them and their uncertainty at the end.

    Args:
        columns: from the left.
        spreads: [H, W] standard deviation of the samples of each row.

    Returns:
        SVG markup.
    """
    rows, wide = len(spreads), len(columns) + 1
    inches, gap, below, above = 11.6, 0.10, 0.36, 0.30
    side = (inches - gap * (wide - 1)) / wide
    largest = max(float(spread.max()) for spread in spreads) or 1.0
    tall = side * spreads[0].shape[0] / spreads[0].shape[1]
    height = above + rows * (tall + below)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(inches, height))

        def axes_at(row: int, column: int) -> Axes:
            left, bottom = column * (side + gap), height - above - row * (tall + below) - tall
            axes = figure.add_axes((left / inches, bottom / height, side / inches, tall / height))
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set(visible=True, color="#c8d0d8", linewidth=0.6)
            return axes

        def word(row: float, column: int, text: str, colour: str, *, weight: str = "normal", size: float = 9.0) -> None:
            middle = (column * (side + gap) + side / 2) / inches
            figure.text(
                middle, row / height, text, ha="center", va="top", color=colour, weight=weight, fontsize=size,
                linespacing=1.25,
            )  # fmt: skip

        for number, column in enumerate(columns):
            word(height - 0.04, number, column.title, column.colour, weight="bold", size=10)
            for row, (image, words) in enumerate(zip(column.images, column.words, strict=True)):
                if image is not None:
                    axes_at(row, number).imshow(_rgb(image), interpolation="nearest", aspect="auto")
                word(height - above - row * (tall + below) - tall - 0.03, number, words, SOFT, size=8.2)
        word(height - 0.04, wide - 1, "uncertainty", INK, weight="bold", size=10)
        for row, spread in enumerate(spreads):
            axes_at(row, wide - 1).imshow(
                spread, cmap="magma", vmin=0, vmax=largest, interpolation="nearest", aspect="auto"
            )
            words = f"{float(np.sqrt((spread**2).mean())):.3f}"
            word(height - above - row * (tall + below) - tall - 0.03, wide - 1, words, SOFT, size=8.2)
        return to_svg(figure)


def write_pngs(folder: Path, name: str, restored: Tensor) -> None:
    """Writes the samples of a picture, one file each.

    Args:
        folder: of all of them.
        name: of the picture; the number of the sample is put behind it.
        restored: [S, C, H, W], -1 black and 1 full, beyond is clipped.
    """
    for number, image in enumerate(restored, start=1):
        values = _bytes(image.numpy())
        picture = Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))
        with replacing(folder / f"{name}.{number}.png") as temporary:
            picture.save(temporary, format="PNG")


def _bytes(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.round((np.nan_to_num(image).clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def _rgb(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """[H, W, 3] of an image of one channel or three."""
    values = _bytes(image).transpose(1, 2, 0)
    return values if values.shape[2] == 3 else values.repeat(3, axis=2)


def _observed(found: Mapping[str, Tensor]) -> NDArray[np.floating] | None:
    """What was observed, with hidden pixels in a colour of their own; None: it is no picture."""
    values = found["observed"].numpy()
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        return None
    if "hole" not in found:
        return values
    hidden = np.array(to_rgb(HIDDEN)).reshape(3, 1, 1) * 2 - 1
    return np.where(found["hole"].numpy(), hidden, np.broadcast_to(values, (3, *values.shape[1:])))


def _shown(found: Mapping[str, Tensor], place: int) -> NDArray[np.floating]:
    restored = found["restored"]
    if place == 0:
        return found["pseudo_inverse"].numpy()
    return (restored.mean(0) if place > len(restored) else restored[place - 1]).numpy()


def _words(found: Mapping[str, Tensor], place: int) -> str:
    residual = f"residual {power(float(found['residuals'][place]))}"
    return f"error {float(found['errors'][place]):.3f}\n{residual}" if "errors" in found else residual
