"""Restored pictures beside observation and truth, and their charts, as SVG that is the same for the same figures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from moe.report.figures import INK, STYLE, to_svg
from netsim.foundation.files import replacing
from trainer.evaluation.restoration.figures import power
from trainer.sampling.restoration import variance

SOFT = "#5b6875"
HIDDEN = "#e7a33e"
"""Colour of hidden pixels, which is no grey."""
WIDTH, GAP, ABOVE, BELOW = 1060, 9, 28, 36
"""Of the rows of pictures, between pictures, and above and below each, in units of the markup."""
MOST_SAMPLES, MOST_CHARACTERS = 6, 18
"""Samples beside each other, and letters below a picture."""
PSEUDO_INVERSE, RESTORED, MEAN = "#d55e00", "#0072b2", "#009e73"


@dataclass(frozen=True)
class Column:
    """Pictures below each other.

    Attributes:
        images: [C, H, W] of each row, -1 black and 1 full; None: there is nothing to show.
    """

    title: str
    images: Sequence[NDArray[np.floating] | None]
    words: Sequence[str]
    colour: str = INK


def columns_of(names: Sequence[str], found: Sequence[Mapping[str, Tensor]]) -> list[Column]:
    """The columns of a page."""
    samples = len(found[0]["restored"])
    places = {"pseudo-inverse": (0, PSEUDO_INVERSE)}
    places |= {f"sample {number}": (number, RESTORED) for number in range(1, min(samples, MOST_SAMPLES) + 1)}
    if samples > 1:
        places["mean"] = (samples + 1, MEAN)
    columns = [Column("observed", [_observed(one) for one in found], [_short(name) for name in names])]
    for title, (place, colour) in places.items():
        images = [_shown(one, place) for one in found]
        columns.append(Column(title, images, [_words(one, place) for one in found], colour))
    if "truth" in found[0]:
        columns.append(Column("truth", [one["truth"].numpy() for one in found], [""] * len(found)))
    return columns


def _short(name: str) -> str:
    """The end of a name, for which there is room below a picture."""
    return name if len(name) <= MOST_CHARACTERS else f"...{name[3 - MOST_CHARACTERS :]}"


def uncertainty_of(found: Sequence[Mapping[str, Tensor]]) -> list[NDArray[np.floating]]:
    """The standard deviation [H, W] of the samples of each picture, averaged over channels; empty with one sample."""
    if len(found[0]["restored"]) == 1:
        return []
    return [variance(one["restored"]).mean(0).sqrt().numpy() for one in found]


def picture_rows(columns: Sequence[Column], spreads: Sequence[NDArray[np.floating]]) -> str:
    """Draws pictures, a row each, with their figures below them and their uncertainty [H, W] at the end."""
    if spreads:
        words = [f"{float(np.sqrt((spread**2).mean())):.3f}" for spread in spreads]
        columns = [*columns, Column("uncertainty", _heated(spreads), words)]
    side = (WIDTH - GAP * (len(columns) - 1)) / len(columns)
    shape = next(image.shape for image in columns[1].images if image is not None)
    tall = side * shape[1] / shape[2]
    parts = []
    for place, column in enumerate(columns):
        left = place * (side + GAP)
        parts.append(_text(left + side / 2, ABOVE - 9, column.title, column.colour, size=14, weight=600))
        for row, (image, words) in enumerate(zip(column.images, column.words, strict=True)):
            top = ABOVE + row * (tall + BELOW)
            if image is not None:
                parts.append(_picture(image, left, top, side, tall))
            for line, text in enumerate(words.splitlines()):
                parts.append(_text(left + side / 2, top + tall + 14 + 13 * line, text, SOFT, size=11))
    height = ABOVE + len(columns[0].images) * (tall + BELOW)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.1f}" '
        f'font-family="system-ui, sans-serif" text-anchor="middle">{"".join(parts)}</svg>'
    )


def _picture(image: NDArray[np.floating], left: float, top: float, width: float, height: float) -> str:
    data = base64.b64encode(_png(image)).decode("ascii")
    box = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return (
        f'<image {box} preserveAspectRatio="none" style="image-rendering: pixelated" '
        f'href="data:image/png;base64,{data}"/><rect {box} fill="none" stroke="#c8d0d8" stroke-width="0.8"/>'
    )


def _text(middle: float, base: float, text: str, colour: str, *, size: int, weight: int = 400) -> str:
    return (
        f'<text x="{middle:.1f}" y="{base:.1f}" fill="{colour}" font-size="{size}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )


def _heated(spreads: Sequence[NDArray[np.floating]]) -> list[NDArray[np.floating] | None]:
    """Standard deviations [H, W] as colours [3, H, W], brighter is more; the largest of all pictures is brightest."""
    largest = max(float(spread.max()) for spread in spreads) or 1.0
    colours = mpl.colormaps["magma"]
    return [2 * colours(spread / largest)[..., :3].transpose(2, 0, 1) - 1 for spread in spreads]


def write_pngs(folder: Path, name: str, restored: Tensor) -> None:
    """Writes the samples [S, C, H, W] of a picture, one file each; -1 black and 1 full, beyond is clipped."""
    for number, image in enumerate(restored, start=1):
        with replacing(folder / f"{name}.{number}.png") as temporary:
            temporary.write_bytes(_png(image.numpy()))


def _png(image: NDArray[np.floating]) -> bytes:
    """The bytes of a PNG file of an image [C, H, W] of one channel or three."""
    values = np.round((np.nan_to_num(image).clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0)).save(stream, format="PNG")
    return stream.getvalue()


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


GRID = "#e3e8ec"
LIMIT = 2.0
"""Of the weight in parts of the noise level, from which on a step of the prior goes further away."""


def distribution_chart(values: NDArray[np.float64], what: str) -> str:
    """Draws the share of pictures whose figure is below each value, by kind of picture; float64 [N, S + 2]."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.7), layout="constrained")
        axes = figure.subplots()
        for name, colour, found in (
            ("pseudo-inverse", PSEUDO_INVERSE, values[:, 0]),
            ("a sample", RESTORED, values[:, 1:-1].ravel()),
            ("mean of the samples", MEAN, values[:, -1]),
        ):
            ordered = np.sort(found)
            shares = np.arange(len(ordered) + 1) / len(ordered)
            axes.step([0.0, *ordered], shares, where="post", color=colour, linewidth=2.0, label=name)
            median = float(np.median(ordered))
            axes.plot([median], [0.5], "o", color=colour, ms=6.5, mec="white", mew=1.0, zorder=3)
        axes.set(xlabel=what, ylabel="share of pictures", ylim=(0, 1.02), xlim=(0, None))
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.2)
        _plain(axes)
        return to_svg(figure)


def spread_chart(errors: NDArray[np.float64], spreads: NDArray[np.float64], samples: int) -> str:
    """Draws the error of the mean of the samples against their unbiased variance, a dot for each picture.

    Where the truth could be one of the samples, the error is 1 + 1 / samples times the variance.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.7), layout="constrained")
        axes = figure.subplots()
        axes.plot(spreads, errors, "o", color=MEAN, ms=6, mec="white", mew=0.8, alpha=0.85)
        reach = 1.08 * float(max(spreads.max(), errors.max())) or 1.0
        axes.plot([0, reach], [0, reach * (1 + 1 / samples)], color="#8a949e", linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set(xlabel="variance of the samples", ylabel="squared error of their mean")
        axes.set(xlim=(0, 1.12 * float(spreads.max()) or 1.0), ylim=(0, 1.08 * float(errors.max()) or 1.0))
        _plain(axes)
        return to_svg(figure)


def weight_chart(levels: NDArray[np.float64], ratios: NDArray[np.float64]) -> str:
    """Draws the share of the distance that a step of the prior goes, against the noise level; both float64 [T]."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.7), layout="constrained")
        axes = figure.subplots()
        axes.plot(levels, ratios, color=RESTORED, linewidth=2.0)
        top = max(LIMIT * 1.08, 1.1 * float(ratios.max()))
        axes.axhspan(LIMIT, top, color=PSEUDO_INVERSE, alpha=0.12, linewidth=0)
        axes.axhline(1.0, color="#8a949e", linewidth=1.0, linestyle=(0, (4, 3)))
        axes.text(0.03, LIMIT - 0.05, "from 2 on: unstable", color=PSEUDO_INVERSE, va="top", fontsize=9)
        axes.text(0.03, 0.97, "1: to what the network expects", color="#5b6875", va="top", fontsize=9)
        axes.set(xlabel="noise level, from 1 (noise) to 0 (data)", ylabel="weight / noise level")
        axes.set(xlim=(1.0, 0.0), ylim=(0, top))
        for text in axes.texts:
            text.set_horizontalalignment("right")
        _plain(axes)
        return to_svg(figure)


def _plain(axes: Axes) -> None:
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_color(INK)
