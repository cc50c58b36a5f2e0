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


def image_rows(rows: Mapping[str, NDArray[np.floating]], remarks: Mapping[str, str]) -> str:
    """Draws rows of images, the same noise below each other.

    Args:
        rows: by name, [N, C, H, W] of 1 or 3 channels, -1 black and 1 full.
        remarks: what stands to the right of a row, by its name.

    Returns:
        SVG markup.
    """
    strips = {name: _strip(images) for name, images in rows.items()}
    height, width = next(iter(strips.values())).shape[:2]
    inches = 11.0
    with mpl.rc_context(STYLE):
        each = (inches - 2.6) * height / width
        figure = Figure(figsize=(inches, len(rows) * (each + 0.12)), layout="constrained")
        figure.get_layout_engine().set(hspace=0.02, h_pad=0.02)  # pyright: ignore  constrained layouts take these
        for axes, (name, strip) in zip(np.ravel(figure.subplots(len(rows), 1)), strips.items(), strict=True):
            axes.imshow(strip, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_axis_off()
            middle = (height - 1) / 2
            axes.text(-height / 6, middle, name, ha="right", va="center", color=COLOURS.get(name, INK), weight="bold")
            axes.text(width + height / 6, middle, remarks[name], ha="left", va="center", color=INK)
        return to_svg(figure)


def _strip(images: NDArray[np.floating]) -> NDArray[np.float64]:
    """Images beside each other, [H, width, C] or [H, width], from 0 to 1, white between them."""
    values = (np.nan_to_num(images.astype(np.float64)).clip(-1, 1) + 1) / 2
    padded = np.pad(values, ((0, 0), (0, 0), (0, 0), (0, GAP)), constant_values=1.0)
    strip = np.concatenate(list(padded.transpose(0, 2, 3, 1)), axis=1)[:, :-GAP]
    return strip[..., 0] if strip.shape[-1] == 1 else strip


def point_panels(
    panels: Mapping[str, NDArray[np.floating]], fine: NDArray[np.floating], remarks: Mapping[str, str]
) -> str:
    """Draws sets of points beside each other, each with lines to where the fine grid leads.

    Args:
        panels: by name, [N, D] points, of which the first two coordinates are shown.
        fine: [N, D] points of the fine grid, from the same noises.
        remarks: what stands below the name of a panel.

    Returns:
        SVG markup.
    """
    reach = 1.1 * float(np.abs(fine[:, :2]).max())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 11.0 / len(panels) + 0.5), layout="constrained")
        for axes, (name, points) in zip(np.ravel(figure.subplots(1, len(panels))), panels.items(), strict=True):
            colour = COLOURS.get(name, INK)
            ways = np.stack([fine[:, :2], points[:, :2]], axis=1)
            axes.plot(*ways.transpose(2, 1, 0), color=colour, linewidth=0.5, alpha=0.35)
            axes.plot(points[:, 0], points[:, 1], "o", color=colour, ms=1.8, mew=0)
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
            axes.spines[["left", "bottom"]].set_visible(False)
            axes.set_title(f"{name}\n{remarks[name]}", fontsize=10, color=colour)
        return to_svg(figure)
