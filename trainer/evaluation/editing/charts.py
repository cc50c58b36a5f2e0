"""The charts of edits, as SVG that is the same for the same figures."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter

from moe.report.figures import STYLE, to_svg
from trainer.evaluation.editing.figures import EditFigures, Point, psnr
from trainer.sampling.editing.plan import EditPlan

CURVE, FLOOR, FRESH, GRID, SOFT = "#0072b2", "#5b6875", "#d55e00", "#e3e8ec", "#9aa7b3"
Offset = tuple[int, int]
"""Points to the right, and up."""


def plane_chart(figures: EditFigures, plan: EditPlan) -> str:
    """Draws error against editability: a curve through the levels, a faint one for each class, and both floors."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.6), layout="constrained")
        axes = figure.subplots()
        fresh, source, points = figures.fresh, figures.source, [one.all for one in figures.levels]
        ends = [(one.error, _share(one)) for one in (source, fresh)]
        axes.plot(*zip(*ends, strict=True), color=FRESH, linewidth=1.1, linestyle=(0, (1, 2)))
        if len(plan.targets) > 1:
            for column in range(len(plan.targets)):
                of_class = [point for one in figures.levels if (point := one.classes[column]) is not None]
                axes.plot(*_places(of_class), color=SOFT, lw=0.7, alpha=0.6)
        axes.plot(*_places(points), color=CURVE, marker="o", ms=6.5, linewidth=2.2, mec="white", mew=0.8)
        axes.plot(*ends[0], "s", color=FLOOR, ms=8, clip_on=False, zorder=4)
        axes.plot(*ends[1], "D", color=FRESH, ms=8, clip_on=False, zorder=4)
        reach = max([fresh.error, *(one.error for one in points)])
        axes.set(xlabel="error against the picture (mean squared)", ylabel="taken for the class asked for")
        axes.set(xlim=(-0.03 * reach, 1.06 * reach), ylim=(-0.04, 1.1))
        _label(axes, ends[0], "the picture itself", FLOOR, (12, -1))
        _label(axes, ends[1], "a fresh draw", FRESH, (6, -16), ha="right").set_bbox(
            {"fc": "white", "ec": "none", "pad": 1}
        )
        _label_levels(axes, figures, reach)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1.0]))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        return to_svg(figure)


def errors_chart(figures: EditFigures, plan: EditPlan) -> str:
    """Draws the error of each level, and that of a fresh draw, where no classifier has judged the edits."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.axhline(figures.fresh.error, color=FRESH, linewidth=1.2, linestyle=(0, (1, 2)), label="a fresh draw")
        axes.plot(
            [one.level for one in figures.levels], [one.all.error for one in figures.levels], color=CURVE, marker="o",
            ms=6.5, linewidth=2.2, label="edits",
        )  # fmt: skip
        axes.set(xlabel=plan.level_name, ylabel="error against the picture (mean squared)")
        axes.set_ylim(bottom=0)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False)
        return to_svg(figure)


def iterates_chart(lines: Sequence[tuple[str, Sequence[int], Sequence[float]]]) -> str:
    """Draws the PSNR of iterates against calls; a line has name, calls up to each iterate, and mean squared errors."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 3.7), layout="constrained")
        axes = figure.subplots()
        for (name, calls, errors), colour, marker in zip(lines, (CURVE, FRESH), "oD", strict=False):
            decibels = [psnr(error) for error in errors]
            axes.plot(calls, decibels, color=colour, marker=marker, ms=5, linewidth=2.0, label=name)
            for place in (0, len(decibels) - 1):
                axes.annotate(
                    f"{decibels[place]:.1f} dB", (calls[place], decibels[place]), (0, 7), textcoords="offset points",
                    color=colour, fontsize=9, ha="center",
                )  # fmt: skip
        axes.set(xlabel="calls of the network for one picture", ylabel="PSNR in dB, of states")
        axes.margins(x=0.08, y=0.14)
        axes.set_xlim(left=0)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="best")
        return to_svg(figure)


def _label_levels(axes: Axes, figures: EditFigures, reach: float) -> None:
    """Writes the level above the points of the curve, the ends first, and none over another or over a floor."""
    levels = figures.levels
    taken = [(figures.source.error / reach + 0.15, _share(figures.source))]
    for one in dict.fromkeys([levels[0], levels[-1], *levels]):
        place = (one.all.error / reach, _share(one.all))
        if all(abs(place[0] - x) > 0.065 or abs(place[1] - y) > 0.06 for x, y in taken):
            taken.append(place)
            _label(axes, (one.all.error, place[1]), f"{one.level:g}", CURVE, (-2, 8), ha="right")


def _label(
    axes: Axes, place: tuple[float, float], text: str, colour: str, offset: Offset, **settings: str
) -> Annotation:
    where = {"ha": "left", "va": "center", **settings}
    return axes.annotate(text, place, offset, textcoords="offset points", color=colour, fontsize=9.5, **where)  # pyright: ignore[reportArgumentType]


def _places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [one.error for one in points], [_share(one) for one in points]


def _share(point: Point) -> float:
    return 0.0 if point.editability is None else point.editability
