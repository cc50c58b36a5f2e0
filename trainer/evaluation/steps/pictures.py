"""What grids draw from the same noises, side by side."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moe.report.figures import INK, STYLE, to_svg
from trainer.evaluation.steps.charts import COLOURS

GAP = 1
"""Pixels between two images."""


def image_rows(rows: Mapping[str, NDArray[np.floating]], fine: str, remarks: Mapping[str, str]) -> str:
    """Draws rows of images [N, C, H, W], one noise a column, and beside them the distance from the row `fine`."""
    missed = {name: np.abs(images - rows[fine]).mean(axis=1, keepdims=True) for name, images in rows.items()}
    largest = max(float(images.max()) for images in missed.values())
    strips = {name: _strip((images + 1) / 2) for name, images in rows.items()}
    height, width = next(iter(strips.values())).shape[:2]
    inches, left, between = 11.0, 1.1, 0.25
    each = (inches - left - between) / 2
    tall = each * height / width
    whole = len(rows) * (tall + 0.08) + 0.25
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(inches, whole))
        for number, (name, strip) in enumerate(strips.items()):
            bottom = (whole - 0.25 - number * (tall + 0.08) - tall) / whole
            size = (each / inches, tall / whole)
            axes = figure.add_axes((left / inches, bottom, *size))
            axes.imshow(strip, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_axis_off()
            middle = bottom + size[1] / 2
            colour = COLOURS.get(name, INK)
            figure.text(0, middle, f"{name}\n", ha="left", va="center", color=colour, weight="bold", fontsize=10.5)
            figure.text(0, middle, f"\n{remarks[name]}", ha="left", va="center", color=INK, fontsize=9.5)
            if name != fine:
                axes = figure.add_axes(((left + each + between) / inches, bottom, *size))
                axes.imshow(
                    _strip(missed[name] / (largest or 1.0), empty=0.0),
                    cmap="Reds",
                    vmin=0,
                    vmax=1,
                    interpolation="nearest",
                )
                axes.set_axis_off()
        top = (whole - 0.12) / whole
        figure.text(left / inches, top, "what is drawn", va="center", color=INK, fontsize=10)
        figure.text((left + each + between) / inches, top, f"difference to {fine}", va="center", color=INK, fontsize=10)
        return to_svg(figure)


def _strip(values: NDArray[np.floating], *, empty: float = 1.0) -> NDArray[np.float64]:
    """Images [N, C, H, W] of values from 0 to 1 beside each other: [H, width, C], or [H, width] of one channel."""
    clipped = np.nan_to_num(values.astype(np.float64)).clip(0, 1)
    padded = np.pad(clipped, ((0, 0), (0, 0), (0, 0), (0, GAP)), constant_values=empty)
    strip = np.concatenate(list(padded.transpose(0, 2, 3, 1)), axis=1)[:, :-GAP]
    return strip[..., 0] if strip.shape[-1] == 1 else strip


def point_panels(
    panels: Mapping[str, NDArray[np.floating]], fine: NDArray[np.floating], remarks: Mapping[str, str]
) -> str:
    """Draws sets of points [N, D] side by side, with lines to where the fine grid leads; a few may be outside."""
    reach = 1.2 * float(np.quantile(np.abs(fine[:, :2]).max(axis=1), 0.99))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 11.0 / len(panels) + 0.5), layout="constrained")
        for axes, (name, points) in zip(np.ravel(figure.subplots(1, len(panels))), panels.items(), strict=True):
            colour = COLOURS.get(name, INK)
            ways = np.stack([fine[:, :2], points[:, :2]], axis=1)
            axes.plot(*ways.transpose(2, 1, 0), color=colour, linewidth=0.6, alpha=0.4)
            axes.plot(points[:, 0], points[:, 1], "o", color=colour, ms=2.2, mew=0)
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
            axes.spines[["left", "bottom"]].set_visible(False)
            axes.set_title(f"{name}\n{remarks[name]}", fontsize=10, color=colour)
        return to_svg(figure)
