"""The charts of restored pictures, as SVG that is the same for the same figures."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moe.report.figures import INK, STYLE, to_svg
from trainer.evaluation.restoration.pictures import MEAN, PSEUDO_INVERSE, RESTORED

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
