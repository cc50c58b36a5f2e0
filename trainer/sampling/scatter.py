"""A picture of points in the plane."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.files import replacing

PANEL_INCHES, TITLE_INCHES = 4.0, 0.4


def scatter_plot(
    panels: Mapping[str, tuple[NDArray[np.floating], NDArray[np.integer] | None]],
    path: Path,
    *,
    fitting: Collection[str],
) -> None:
    """Writes sets of points side by side, on equal axes, as one PNG.

    Args:
        panels: from a title to points [N, D], of which two coordinates are shown, and their classes int [N] or None.
        fitting: titles of the panels whose points all are within the axes; points of others may be cut off.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    reach = 1.15 * max(float(np.abs(panels[title][0][:, :2]).max()) for title in fitting)
    size = PANEL_INCHES * len(panels), PANEL_INCHES + TITLE_INCHES
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, (points, classes)) in zip(
        np.ravel(figure.subplots(1, len(panels))).tolist(), panels.items(), strict=True
    ):
        colours = {"color": "#1f4e8c"} if classes is None else {"c": classes, "cmap": "tab10"}
        axes.scatter(points[:, 0], points[:, 1], s=3, alpha=0.6, linewidths=0, **colours)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
