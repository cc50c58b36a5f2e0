"""Pictures of how long each transport and its flows take, and how far that is above the lower bound."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from netsim.report.drawing import (
    GRID,
    INK,
    STYLE,
    bars,
    behind,
    colours,
    name_rows,
    new_figure,
    rounded,
    steps,
    time_unit,
    to_svg,
)
from netsim.report.summary import TransportSummary, differ, extremes, summarise
from netsim.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def completion_title(results: Results) -> str:
    """The finding of `completion_svg` in one line."""
    summaries = summarise(results)
    fastest, slowest = extremes(summaries)
    if len(summaries) == 1:
        scale, unit = time_unit(fastest.mean_us)
        above = f"{100 * fastest.above_bound:.1f} % above the lower bound"
        return (
            f"{fastest.name} takes {rounded(fastest.mean_us / scale, 4)} {unit}, {above}"
            if fastest.mean_us
            else "Nothing to do"
        )
    if not differ(summaries):
        return "All transports take the same time, to half a percent"
    return f"{slowest.name} takes {behind(slowest.mean_us, fastest.mean_us)} {fastest.name}"


def completion_svg(results: Results) -> str:
    """Completion time of each transport, and how far it lies above the lower bound; dots are seeds."""
    import matplotlib

    summaries = summarise(results)
    _, slowest = extremes(summaries)
    scale, unit = time_unit(slowest.mean_us)
    fill = colours(summaries)
    completions = [[us / scale for us in summary.completions_us] for summary in summaries]
    above = [_above_bound(summary) for summary in summaries]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(10, 1.9 + 0.44 * len(summaries), completion_title(results))
        times, excess = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        bars(times, fill, completions, [f"{rounded(summary.mean_us / scale, 4)} {unit}" for summary in summaries])
        bars(excess, fill, above, [f"{sum(values) / len(values):+.1f} %".replace("-0.0", "+0.0") for values in above])
        _mark(times, max(summary.bound_us for summary in summaries) / scale, unit)
        name_rows(times, summaries)
        times.set_ylim(top=-1)
        times.set_xlim(0, 1.22 * max(map(max, completions)) or 1)
        excess.set_xlim(0, 1.25 * max(0.4, *map(max, above)))
        times.set_xlabel(f"completion time ({unit})")
        excess.set_xlabel("above the lower bound (%)")
        return to_svg(figure, "completion")


def _mark(axes: "Axes", bound: float, unit: str) -> None:
    """The lower bound as a dashed line with its value."""
    axes.axvline(bound, color=INK, linewidth=1.1, linestyle=(0, (4, 3)))
    text = f"lower bound {bound:.4g} {unit}"
    axes.annotate(text, (bound, -0.72), (-5, 0), textcoords="offset points", ha="right", va="center", size=9)


def _above_bound(summary: TransportSummary) -> list[float]:
    return [100 * (us / summary.bound_us - 1) if summary.bound_us else 0.0 for us in summary.completions_us]


_LEVELS = np.linspace(0, 1, 301)
_WIDE = 30
"""Ratio of the slowest flow to the first percentile from which the axis is logarithmic."""


def has_flows(results: Results) -> bool:
    """Whether every run had flows."""
    return all(len(run.flows) for run in results.runs)


def flows_title(results: Results) -> str:
    """The finding of `flows_svg` in one line."""
    fastest, slowest = extremes(summarise(results))
    if slowest.flow_p99_us <= 1.005 * fastest.flow_p99_us:
        scale, unit = time_unit(fastest.flow_p99_us)
        return f"99 % of the flows of {fastest.name} take at most {rounded(fastest.flow_p99_us / scale, 3)} {unit}"
    longer = behind(slowest.flow_p99_us, fastest.flow_p99_us)
    return f"99th percentile of flows: {slowest.name} takes {longer} {fastest.name}"


def flows_svg(results: Results) -> str:
    """For each transport, the part of its flows that is done within a time; flows of all seeds. Needs flows."""
    import matplotlib

    summaries = summarise(results)
    curves = [_quantiles(results, summary.name) for summary in summaries]
    longest = max(float(curve[-1]) for curve in curves)
    low = min(float(curve[3]) for curve in curves)
    scale, unit = time_unit(longest)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(10, max(3.7, 1.0 + 0.24 * len(summaries)), flows_title(results))
        axes = figure.subplots()
        steps(axes, summaries, [(curve / scale, 100 * _LEVELS) for curve in curves])
        if low > 0 and longest > _WIDE * low:
            axes.set_xscale("log")
        else:
            axes.set_xlim(0.97 * low if low > 0.4 * longest else 0, None)
        axes.set_ylim(0, 101)
        axes.set_xlabel(f"completion time of a flow ({unit})")
        axes.set_ylabel("flows done (%)")
        axes.grid(color=GRID, linewidth=0.8)
        return to_svg(figure, "flows")


def _quantiles(results: Results, transport: str) -> np.ndarray:
    """Durations of flows at `_LEVELS`, in microseconds, of all seeds."""
    durations: Sequence[np.ndarray] = [
        run.flows["end_ps"] - run.flows["start_ps"] for run in results.runs if run.transport == transport
    ]
    return np.quantile(np.concatenate(durations), _LEVELS, method="inverted_cdf") / 1e6
