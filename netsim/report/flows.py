"""How the completion times of flows are distributed."""

from collections.abc import Sequence

import numpy as np

from netsim.report.drawing import GRID, STYLE, behind, new_figure, rounded, steps, time_unit, to_svg
from netsim.report.summary import extremes, summarise
from netsim.results import Results

_LEVELS = np.linspace(0, 1, 301)
_WIDE = 30
"""Ratio of the slowest flow to the first percentile from which the axis is logarithmic."""


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
