"""Pictures of what a scenario watches: links over time, and windows of chosen flows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from netsim.congestion.protocol import UNLIMITED
from netsim.report.drawing import FAINT, GRID, LINE_FILLS, STYLE, new_figure, rounded, time_unit, to_svg
from netsim.report.summary import differ, extremes, summarise
from netsim.results import Results, Run
from netsim.units import PICOSECONDS_PER_SECOND

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHARES, _FILLS = (0.0, 0.5, 0.9, 0.93, 1.0), ("#f1f4f6", "#9cc3de", "#0072b2", "#d55e00", "#d55e00")
"""Colours of shares of a link's capacity; those of nearly full links stand out."""
_LINKS = 24
_FLOWS = 6


class _Load(NamedTuple):
    """Links between switches by their busiest moment: names, and the share of capacity in use by interval."""

    names: Sequence[str]
    shares: np.ndarray


def has_links_over_time(results: Results) -> bool:
    """Whether links are watched."""
    return any(run.watched is not None and run.watched.bytes.size for run in results.first_runs())


def has_windows(results: Results) -> bool:
    """Whether flows are watched and were acknowledged."""
    return any(run.watched is not None and any(map(len, run.watched.samples)) for run in results.first_runs())


def links_over_time_title(results: Results) -> str:
    """The finding of `links_over_time_svg` in one line."""
    told = []
    for run in _shown(results):
        shares = _loads(results, run).shares
        full = (shares > 0.95).sum(axis=0)
        moments = int((shares.max(axis=0, initial=0) > 0).sum())
        hot = 100 * int((full > 0).sum()) / max(moments, 1)
        told.append(
            f"{run.transport}: some link is full for {hot:.0f} % of the time, at most {full.max(initial=0)} at once"
        )
    return "; ".join(told)


def links_over_time_svg(results: Results) -> str:
    """The links between switches that are busiest at some moment, over time; the fastest and the slowest transport."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    runs = _shown(results)
    loads = [_loads(results, run) for run in runs]
    fills = LinearSegmentedColormap.from_list("load", [*zip(_SHARES, _FILLS, strict=True)])
    longest = max(run.watched.width_ps * run.watched.bytes.shape[1] for run in runs if run.watched is not None)
    scale, unit = time_unit(longest / 1e6)
    rows = [min(_LINKS, len(load.names)) for load in loads]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(10, 1.2 + 0.5 * len(runs) + 0.14 * sum(rows), links_over_time_title(results))
        grid = figure.subplots(len(runs), 1, sharex=True, squeeze=False, height_ratios=rows)[:, 0]
        for axes, run, load in zip(grid, runs, loads, strict=True):
            shown = load.shares[:_LINKS]
            end = _width_ps(run) * shown.shape[1] / 1e6 / scale
            axes.imshow(
                shown,
                cmap=fills,
                vmin=0,
                vmax=1,
                aspect="auto",
                extent=(0, end, len(shown) - 0.5, -0.5),
                interpolation="nearest",
            )
            axes.set_yticks(range(len(shown)), load.names[:_LINKS], size=6.5)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.set_title(run.transport, loc="left", weight="bold", size=9.5)
        grid[-1].set_xlabel(f"time ({unit})")
        grid[-1].set_xlim(0, longest / 1e6 / scale)
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1), fills), ax=list(grid), pad=0.01, aspect=30, shrink=0.5)
        bar.set_ticks([0, 0.5, 1], labels=["idle", "50 %", "full"])
        bar.outline.set_visible(False)
        return to_svg(figure, "links_over_time")


def windows_title(results: Results) -> str:
    """The finding of `windows_svg` in one line."""
    told = []
    for run in _shown(results):
        trips = [samples["round_trip_ps"] for samples in _samples(run)]
        if trips:
            least, most = min(int(trip.min()) for trip in trips), max(int(trip.max()) for trip in trips)
            told.append(f"{run.transport}: round trips from {rounded(least / 1e6, 3)} to {rounded(most / 1e6, 3)} µs")
    return "; ".join(told)


def windows_svg(results: Results) -> str:
    """Window, packets under way and round trip of the first watched flows; the fastest and the slowest transport."""
    import matplotlib

    runs = [run for run in _shown(results) if _samples(run)]
    scale, unit = time_unit(max(run.completion_ps for run in runs) / 1e6)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(10, 0.9 + 2.0 * len(runs), windows_title(results))
        grid = figure.subplots(len(runs), 2, sharex=True, sharey="col", squeeze=False)
        for (left, right), run in zip(grid, runs, strict=True):
            for number, (name, samples) in enumerate(_named(results, run)):
                times = samples["time_ps"] / 1e6 / scale
                colour = LINE_FILLS[number % len(LINE_FILLS)]
                if samples["window"].max() < UNLIMITED:
                    left.plot(times, samples["window"], color=colour, linewidth=1.3, drawstyle="steps-post", label=name)
                left.fill_between(times, 0, samples["in_flight"], color=colour, alpha=0.15, linewidth=0, step="post")
                right.plot(times, samples["round_trip_ps"] / 1e6, ".", color=colour, markersize=2.5, label=name)
            _label(left, f"{run.transport}: window (line), under way (area)", "packets")
            _label(right, f"{run.transport}: round trip of each packet", "µs")
        for axes in grid[-1]:
            axes.set_xlabel(f"time ({unit})")
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
        grid[0, 1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8, markerscale=3)
        return to_svg(figure, "windows")


def _label(axes: "Axes", title: str, quantity: str) -> None:
    axes.set_title(title, loc="left", weight="bold", size=9)
    axes.set_ylabel(quantity, size=9, color=FAINT)
    axes.grid(axis="y", color=GRID, linewidth=0.8)


def _shown(results: Results) -> list[Run]:
    """First seeds of the fastest and the slowest transport that were watched."""
    ends = extremes(summarise(results)) if differ(summarise(results)) else extremes(summarise(results))[:1]
    first = {run.transport: run for run in results.first_runs() if run.watched is not None}
    return [first[summary.name] for summary in ends if summary.name in first]


def _width_ps(run: Run) -> int:
    return 1 if run.watched is None else run.watched.width_ps


def _loads(results: Results, run: Run) -> _Load:
    """Links between switches, or of hosts where there are none, the busiest first."""
    assert run.watched is not None
    between = [index for index, link in enumerate(results.links) if "host" not in (link.src[:4], link.dst[:4])]
    chosen = np.array(between or range(len(results.links)))
    rates = np.array([results.links[index].rate_bps for index in chosen.tolist()])
    capacity = rates[:, None] * (run.watched.width_ps / 8 / PICOSECONDS_PER_SECOND)
    shares = np.minimum(run.watched.bytes[chosen] / capacity, 1.0)
    order = np.lexsort((-shares.sum(axis=1), -shares.max(axis=1, initial=0)))
    return _Load([results.links[index].name for index in chosen[order].tolist()], shares[order])


def _samples(run: Run) -> list[np.ndarray]:
    return [] if run.watched is None else [samples for samples in run.watched.samples[:_FLOWS] if len(samples)]


def _named(results: Results, run: Run) -> list[tuple[str, np.ndarray]]:
    """Samples of the first flows that have any, each with the ranks of its message."""
    assert run.watched is not None
    tasks = results.scene.tasks.columns()
    found = zip(run.watched.tasks[:_FLOWS], run.watched.samples[:_FLOWS], strict=True)
    return [(f"{tasks.src[task]} → {tasks.dst[task]}", samples) for task, samples in found if len(samples)]
