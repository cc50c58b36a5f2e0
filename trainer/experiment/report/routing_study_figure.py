"""The picture of a study of routing that knows distances."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moe.report.figures import INK, STYLE, to_svg

_CONTIGUOUS, _PLACED, _RING = "#9aa5b1", "#0072b2", "#d55e00"
_BAND, _GRID, _SOFT = "#e6eaee", "#eef1f4", "#5b6875"
_FULL_WIDTH = 11.0


@dataclass(frozen=True)
class Point:
    """A setting of the router: mean MB between ranks in a step (x), mean held-out loss (y), the same of each seed."""

    label: str
    x: float
    y: float
    seeds: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """The settings under one placement by rising hop cost; `marked` is the place of the largest free one."""

    points: Sequence[Point]
    marked: int | None
    rival: Point


@dataclass(frozen=True)
class Panel:
    """One data set; `band` has losses that differ from those without hop cost by chance alone."""

    title: str
    contiguous: Curve
    placed: Curve
    band: tuple[float, float]


def routing_study_figure(panels: Sequence[Panel]) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_FULL_WIDTH, 4.8), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw(axes, panel)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        return to_svg(figure)


def _draw(axes: Axes, panel: Panel) -> None:
    axes.axhspan(*panel.band, color=_BAND, linewidth=0, zorder=0, label="spread of seeds, no hop cost")
    for curve, colour, name in ((panel.contiguous, _CONTIGUOUS, "contiguous"), (panel.placed, _PLACED, "placed")):
        for point in (*curve.points, curve.rival):
            axes.plot(*zip(*point.seeds, strict=True), ".", color=colour, alpha=0.4, markersize=5, zorder=2)
        xs, ys = [point.x for point in curve.points], [point.y for point in curve.points]
        axes.plot(xs, ys, "o-", color=colour, markersize=5.5, linewidth=1.6, label=f"sparse OT, {name}", zorder=3)
        rival = {"color": colour, "markersize": 7, "markeredgecolor": INK, "linestyle": "none"}
        axes.plot([curve.rival.x], [curve.rival.y], "D", label=f"top-k, {name}", zorder=3, **rival)
        below = curve is panel.placed
        for point in curve.points:
            axes.annotate(
                point.label,
                (point.x, point.y),
                (-8, -11) if below else (8, 6),
                textcoords="offset points",
                ha="right" if below else "left",
                fontsize=9,
                color=_PLACED if below else _SOFT,
            )
        if curve.marked is not None:
            ring = {"markersize": 13, "markerfacecolor": "none", "markeredgecolor": _RING, "markeredgewidth": 1.6}
            label = None if below else "largest hop cost that is free"
            axes.plot(xs[curve.marked], ys[curve.marked], "o", linestyle="none", label=label, zorder=4, **ring)
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.set(xlabel="MB between ranks in a step", ylabel="held-out loss")
    axes.margins(x=0.08, y=0.12)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
