"""The charts of searched grids, as SVG that is the same for the same figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from moe.report.figures import INK, STYLE, to_svg
from trainer.evaluation.steps.measured import GridFigures, Measured, ratio

COLOURS = {"uniform": "#5b6875", "chord": "#d55e00", "endpoint": "#0072b2"}
MARKERS = {"uniform": "o", "chord": "s", "endpoint": "D"}
NAMES = {"uniform": "equal steps", "chord": "chord", "endpoint": "endpoint"}
GRID = "#e3e8ec"
LEAST = 1e-9
"""What is drawn of an error that is 0."""


def errors_chart(found: Measured) -> str:
    """Draws the error at the end against evaluations, and beside it the errors in parts of those of equal steps."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 3.9), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        _lines(left, found, lambda one, _: max(one.error, LEAST))
        left.set_yscale("log")
        left.set_title("error", loc="left", fontsize=10.5, color=INK)
        bottom, top = left.get_ylim()
        left.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if top / bottom < 1e3 else (1.0,)))
        left.yaxis.set_minor_locator(NullLocator())
        left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        left.legend(frameon=False, loc="best")
        _lines(middle, found, lambda one, uniform: ratio(one.error, uniform.error))
        middle.set_title("error, equal steps = 1", loc="left", fontsize=10.5, color=INK)
        _lines(right, found, lambda one, uniform: ratio(one.energy_distance, uniform.energy_distance))
        for axes in (middle, right):
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.2f}")
        right.set_title("energy distance, equal steps = 1", loc="left", fontsize=10.5, color=INK)
        return to_svg(figure)


def _lines(axes: Axes, found: Measured, value: Callable[[GridFigures, GridFigures], float]) -> None:
    """A line for each kind of grid; a value is of a grid and of the uniform one."""
    evaluations = list(found.grids)
    axes.set(xscale="log", xlabel="evaluations of the field, one a step")
    for kind in next(iter(found.grids.values())):
        values = [value(kinds[kind], kinds["uniform"]) for kinds in found.grids.values()]
        axes.plot(
            evaluations, values, color=COLOURS[kind], marker=MARKERS[kind], ms=6, linewidth=1.9, label=NAMES[kind]
        )
    axes.set_xticks(evaluations, [str(number) for number in evaluations])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def cost_chart(cost: NDArray[np.float64], kinds: Mapping[str, GridFigures], evaluations: int) -> str:
    """Draws the logarithm of costs [T, T] of steps, and the grids of one number of evaluations as ladders on it."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.9), layout="constrained")
        axes = figure.subplots()
        shown = np.where(np.isfinite(cost) & (cost > 0), cost, np.nan)
        half = 0.5 / (len(cost) - 1)
        image = axes.imshow(
            shown,
            norm=_norm(shown),
            cmap="Greys",
            extent=(-half, 1 + half, 1 + half, -half),
            interpolation="nearest",
            aspect="equal",
        )
        for kind, one in kinds.items():
            begins, ends = np.repeat(one.times, 2)[:-1], np.repeat(one.times, 2)[1:]
            axes.plot(ends, begins, color=COLOURS[kind], linewidth=2.2, label=NAMES[kind], solid_joinstyle="miter")
            axes.plot(one.times[1:], one.times[:-1], MARKERS[kind], color=COLOURS[kind], ms=7, mec="white", mew=1.0)
        axes.set(xlabel="time at which a step ends", ylabel="time at which it begins")
        axes.set_title(f"{evaluations} steps, down the ladder", loc="left", fontsize=10.5, color=INK)
        axes.legend(frameon=False, loc="lower left")
        bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
        bar.set_label("cost of a step")
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]  matplotlib types it as a method
        return to_svg(figure)


def _norm(costs: NDArray[np.float64]) -> LogNorm | None:
    """The least shown is a millionth of the largest: below, a step costs nothing that one could see."""
    largest = np.nanmax(costs, initial=0.0)
    return LogNorm(vmin=max(float(np.nanmin(costs)), 1e-6 * largest), vmax=largest) if largest > 0 else None


def ladders_chart(found: Measured) -> str:
    """Draws when the steps of each grid end, a line for each grid."""
    kinds = list(next(iter(found.grids.values())))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.9), layout="constrained")
        axes = figure.subplots()
        places = []
        for number, by_kind in enumerate(found.grids.values()):
            places.append(number * (len(kinds) + 1) + (len(kinds) - 1) / 2)
            for row, kind in enumerate(kinds, start=number * (len(kinds) + 1)):
                times = by_kind[kind].times
                axes.plot(times, [row] * len(times), color=COLOURS[kind], linewidth=1.0, alpha=0.5)
                axes.plot(
                    times, [row] * len(times), MARKERS[kind], color=COLOURS[kind], ms=6.5, mec="white", mew=0.8,
                    label="" if number else NAMES[kind],
                )  # fmt: skip
        axes.set_yticks(places, [str(number) for number in found.grids])
        axes.set(xlabel="time, from noise (0) to data (1)", ylabel="evaluations", xlim=(-0.02, 1.02))
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_title("where the steps end", loc="left", fontsize=10.5, color=INK)
        return to_svg(figure)
