"""Charts of searched grids, and samples of them from the same noises, as SVG that is the same for the same figures."""

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
