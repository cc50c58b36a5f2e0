"""The charts of edits, as SVG that is the same for the same figures."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from moe.report.figures import STYLE, to_svg
from trainer.evaluation.editing.figures import EditFigures, Point, psnr
from trainer.sampling.editing.plan import EditPlan

CURVE, FLOOR, FRESH, GRID, SOFT = "#0072b2", "#5b6875", "#d55e00", "#e3e8ec", "#9aa7b3"


def plane_chart(figures: EditFigures, plan: EditPlan) -> str:
    """Draws error against editability: a curve through the levels, a faint one for each class, and both floors.

    Args:
        figures: of the edits; a classifier has judged them.
        plan: the edits.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.6, 4.7), layout="constrained")
        axes = figure.subplots()
        fresh, source = figures.fresh, figures.source
        axes.axhline(_share(fresh), color=FRESH, linewidth=1.0, linestyle=(0, (1, 2)))
        axes.axvline(fresh.error, color=FRESH, linewidth=1.0, linestyle=(0, (1, 2)))
        for column in range(len(plan.targets)):
            points = [point for one in figures.levels if (point := one.classes[column]) is not None]
            if len(plan.targets) > 1:
                axes.plot([one.error for one in points], [_share(one) for one in points], color=SOFT, lw=0.7, alpha=0.6)
        points = [one.all for one in figures.levels]
        axes.plot(
            [one.error for one in points], [_share(one) for one in points], color=CURVE, marker="o", ms=6.5,
            linewidth=2.2, mec="white", mew=0.8,
        )  # fmt: skip
        axes.plot(source.error, _share(source), "s", color=FLOOR, ms=8, clip_on=False, zorder=4)
        axes.plot(fresh.error, _share(fresh), "D", color=FRESH, ms=8, clip_on=False, zorder=4)
        _label(axes, source, "the picture itself", FLOOR, (10, 6))
        axes.annotate(
            "a fresh draw\nof the class", (fresh.error, _share(fresh)), (-8, -9), textcoords="offset points",
            color=FRESH, fontsize=9.5, ha="right", va="top",
        )  # fmt: skip
        _label_levels(axes, figures)
        axes.set(xlabel="error against the picture (mean squared)", ylabel="taken for the class asked for")
        axes.set_ylim(-0.03, 1.05)
        axes.set_xlim(left=-0.03 * axes.get_xlim()[1])
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        return to_svg(figure)


def errors_chart(figures: EditFigures, plan: EditPlan) -> str:
    """Draws the error of each level, and that of a fresh draw, where no classifier has judged the edits."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.6, 4.0), layout="constrained")
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
    """Draws the PSNR of iterates against the calls of the network that they took.

    Args:
        lines: of each, its name, the calls up to each iterate, and the mean squared error of each.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.6, 4.0), layout="constrained")
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


def _label_levels(axes: Axes, figures: EditFigures) -> None:
    """Writes the level beside each point of the curve; where points lie close, beside the first and the last alone."""
    reach = max(one.all.error for one in figures.levels) or 1.0
    shown: list[Point] = []
    ordered = [figures.levels[0], figures.levels[-1], *figures.levels[1:-1]] if len(figures.levels) > 1 else figures.levels
    for one in ordered:
        near = any(
            abs(one.all.error - other.error) < 0.04 * reach and abs(_share(one.all) - _share(other)) < 0.05
            for other in shown
        )
        if not near:
            shown.append(one.all)
            _label(axes, one.all, f"{one.level:g}", CURVE, (8, -12))


def _label(axes: Axes, point: Point, text: str, colour: str, offset: tuple[int, int]) -> None:
    place = (point.error, _share(point))
    axes.annotate(text, place, offset, textcoords="offset points", color=colour, fontsize=9.5)


def _share(point: Point) -> float:
    return 0.0 if point.editability is None else point.editability


