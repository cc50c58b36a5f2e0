"""How long each transport and its flows take, and how far that is above the lower bound."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from netsim.foundation.chart import Panel, chart
from netsim.foundation.marks import BLUE, COLOURS, DASHED, DOTTED, GREY, INK, RED, SOLID, Level, Line, Rows, Words
from netsim.foundation.units import behind, in_unit, rounded, signed, time_unit
from netsim.simulation.results import Results
from netsim.simulation.summary import TransportSummary, by_transport, differ, extremes, summarise

LIGHT_BLUE = "#8fb8d6"
_LEVELS = np.linspace(0, 1, 301)
_WIDE = 30
"""Ratio of the slowest flow to the first percentile from which the axis is logarithmic."""
_OTHERS, _DASHES = COLOURS[2:6], (SOLID, DASHED, DOTTED)


def completion_title(results: Results) -> str:
    """Title: how much longer the slowest transport takes than the fastest."""
    summaries = summarise(results)
    fastest, slowest = extremes(summaries)
    if len(summaries) == 1:
        above = f", {100 * fastest.above_bound:.1f} % above the lower bound" if fastest.bound_us else ""
        return f"{fastest.name} takes {in_unit(fastest.mean_us)}{above}" if fastest.mean_us else "Nothing to do"
    if not differ(summaries):
        return "All transports take the same time, to half a percent"
    return f"{slowest.name} takes {behind(slowest.mean_us, fastest.mean_us)} {fastest.name}"


def finding(results: Results) -> str:
    """Which transport completes first, by what margin, and how sure that is, in one sentence."""
    summaries = summarise(results)
    fastest, slowest = extremes(summaries)
    seeds = len(fastest.completions_us)
    runs = "one seed" if seeds == 1 else f"means over {seeds} seeds"
    bound = f", {100 * fastest.above_bound:.1f} % above the lower bound that no routing of packets can beat"
    bound = bound if fastest.bound_us else ""
    rivals = sorted((s for s in summaries if not s.flow_level and s is not fastest), key=lambda s: s.mean_us)
    if not rivals:
        return f"{fastest.label} completes in {in_unit(fastest.mean_us)}{bound} ({runs})."
    if not differ(summaries):
        return f"All transports complete in {in_unit(fastest.mean_us)}, to half a percent{bound} ({runs})."
    apart = max(fastest.completions_us) < min(rivals[0].completions_us)
    sure = "one seed" if seeds == 1 else f"{seeds} seeds, which {'do not overlap' if apart else 'overlap'}"
    margin = f"{100 * (rivals[0].mean_us / fastest.mean_us - 1):.1f} % before {rivals[0].name} ({sure})"
    last = "" if rivals[0] is slowest else f"; {slowest.name} takes {behind(slowest.mean_us, fastest.mean_us)} that"
    return f"{fastest.name} completes first, in {in_unit(fastest.mean_us)}{bound}, and {margin}{last}."


def completion_svg(results: Results) -> str:
    """Completion time of each transport, and how far it lies above the lower bound; dots are seeds."""
    summaries = summarise(results)
    scale, unit = time_unit(extremes(summaries)[1].mean_us)
    fill, low = colours(summaries), len(summaries) - 0.5
    times = [[us / scale for us in summary.completions_us] for summary in summaries]
    above = [[100 * _over(us, summary.bound_us) for us in summary.completions_us] for summary in summaries]
    bound = max(summary.bound_us for summary in summaries) / scale
    right = bound > 0.4 * max(map(max, times))
    words = Words(
        bound, -0.75, f"lower bound {bound:.4g} {unit}", offset=(-6 if right else 6, 0),
        align="right" if right else "left",
    )  # fmt: skip
    bars = Rows(times, [f"{rounded(summary.mean_us / scale, 4)} {unit}" for summary in summaries], fill)
    size: tuple[float, float] = (11, 1.5 + 0.4 * len(summaries))
    shared: dict[str, Any] = {"grid": "x", "y_limits": (low, -1.1)}
    if not bound:
        alone = Panel([bars], x=f"completion time ({unit})", rows=labels(summaries), **shared)
        return chart([alone], size=size, name="completion")
    excess = Rows(above, [signed(summary.above_bound) for summary in summaries], fill)
    most = 1.25 * max(0.4, *map(max, above))
    return chart(
        [
            Panel(
                [bars, Level(bound, upright=True, colour=INK), words], x=f"completion time ({unit})",
                rows=labels(summaries), **shared,
            ),
            Panel(
                [excess], x="above the lower bound (%)", x_limits=(min(0, *map(min, above)), most), **shared,
            ),
        ],
        size=size, widths=(3, 2), share="y", name="completion",
    )  # fmt: skip


def labels(summaries: Sequence[TransportSummary]) -> list[str]:
    """Names of the transports, the first on top, for the side of a panel."""
    return [summary.label for summary in summaries]


def curves(summaries: Sequence[TransportSummary], points: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Line]:
    """A staircase for each transport; the fastest and the slowest stand out."""
    ends = [summary.name for summary in extremes(summaries)] if differ(summaries) else []
    lines, others = [], 0
    for summary, colour, (xs, ys) in zip(summaries, colours(summaries), points, strict=True):
        if summary.name in ends or summary.flow_level:
            lines.append(Line(xs, ys, colour, summary.label, width=1.6 if summary.flow_level else 2.2, steps=True))
            continue
        look = _OTHERS[others % len(_OTHERS)], _DASHES[others // len(_OTHERS) % len(_DASHES)]
        lines.append(Line(xs, ys, look[0], summary.label, look[1], width=1.3, steps=True))
        others += 1
    return lines


def has_flows(results: Results) -> bool:
    """Whether every run had flows."""
    return all(len(run.flows) for run in results.runs)


def flows_title(results: Results) -> str:
    """Title: how far apart the slowest flows of the transports are."""
    fastest, slowest = extremes(summarise(results))
    if slowest.flow_p99_us <= 1.005 * fastest.flow_p99_us:
        return f"99 % of the flows of {fastest.name} take at most {in_unit(fastest.flow_p99_us, 3)}"
    longer = behind(slowest.flow_p99_us, fastest.flow_p99_us)
    return f"99th percentile of flows: {slowest.name} takes {longer} {fastest.name}"


def flows_svg(results: Results) -> str:
    """For each transport, the part of its flows that is done within a time; flows of all seeds. Needs flows."""
    summaries, runs = summarise(results), by_transport(results)
    done = [np.concatenate([run.flows["end_ps"] - run.flows["start_ps"] for run in runs[s.name]]) for s in summaries]
    times = [np.quantile(durations, _LEVELS, method="inverted_cdf") / 1e6 for durations in done]
    low, longest = min(float(curve[3]) for curve in times), max(float(curve[-1]) for curve in times)
    scale, unit = time_unit(longest)
    logarithmic = low > 0 and longest > _WIDE * low
    begin = None if logarithmic else 0.97 * low / scale if low > 0.4 * longest else 0
    panel = Panel(
        curves(summaries, [(curve / scale, 100 * _LEVELS) for curve in times]),
        x=f"completion time of a flow ({unit})", y="flows done (%)", log="x" if logarithmic else "",
        x_limits=(begin, None), y_limits=(0, 101), legend="right", grid="both",
    )  # fmt: skip
    return chart([panel], size=(11, max(3.9, 1.0 + 0.24 * len(summaries))), name="flows")


def _over(time_us: float, bound_us: float) -> float:
    return time_us / bound_us - 1 if bound_us else 0.0


def colours(summaries: Sequence[TransportSummary]) -> list[str]:
    """A colour for each transport: the fastest and the slowest with packets stand out; flow level is grey."""
    fastest, slowest = extremes(summaries)
    ends = {fastest.name: BLUE, slowest.name: RED} if differ(summaries) else {}
    return [GREY if summary.flow_level else ends.get(summary.name, LIGHT_BLUE) for summary in summaries]
