"""Pictures over time: queues, and links and windows that a scenario watches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from netsim.congestion.protocol import UNLIMITED
from netsim.report.drawing import FAINT, GRID, LINE_FILLS, STYLE, colours, new_figure, rounded, time_unit, to_svg
from netsim.report.summary import differ, extremes, summarise
from netsim.results import Results, Run
from netsim.units import PICOSECONDS_PER_SECOND

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_PANELS_A_ROW = 4
_LONGEST_NAME = 24


class _Band(NamedTuple):
    """Longest queue over time, in microseconds, over all seeds: the least, the mean and the most of them."""

    edges_us: np.ndarray
    least: np.ndarray
    mean: np.ndarray
    most: np.ndarray


def has_queues(results: Results) -> bool:
    """Whether any run had packets that found a queue."""
    return any(run.engine != "fluid" and run.queues.max_queue_ps.any() for run in results.runs)


def queues_title(results: Results) -> str:
    """The finding of `queues_svg` in one line."""
    fastest, slowest = extremes(summarise(results))
    peaks = {name: float(_band(results, name).most.max(initial=0)) for name in (fastest.name, slowest.name)}
    scale, unit = time_unit(max(peaks.values()))
    longest = {name: f"{rounded(peak / scale, 3)} {unit}" if peak else "none" for name, peak in peaks.items()}
    if fastest.name == slowest.name:
        return f"Queues of {fastest.name} grow to {longest[fastest.name]}"
    return (
        f"Queues of {slowest.name} grow to {longest[slowest.name]}, those of {fastest.name} to {longest[fastest.name]}"
    )


def queues_svg(results: Results) -> str:
    """The longest queue at any switch over time, a panel a transport; the band spans the seeds, the line is their mean.

    A queue counts as the time that its link takes to send it. Needs a run with packets.
    """
    import matplotlib

    shown = [
        (s, colour)
        for s, colour in zip(summarise(results), colours(summarise(results)), strict=True)
        if not s.flow_level
    ]
    columns = min(_PANELS_A_ROW, len(shown))
    rows = -(-len(shown) // columns)
    bands = [_band(results, summary.name) for summary, _ in shown]
    time_scale, time_name = time_unit(max(float(band.edges_us[-1]) for band in bands))
    peak = max(float(band.most.max(initial=0)) for band in bands)
    queue_scale, queue_name = time_unit(peak)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(10, 0.75 + 1.9 * rows, queues_title(results))
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, (summary, colour), band in zip(grid.flat, shown, bands, strict=False):
            edges = band.edges_us / time_scale
            axes.fill_between(
                edges[:-1], 0, band.mean / queue_scale, step="post", color=colour, alpha=0.28, linewidth=0
            )
            if len(summary.completions_us) > 1:
                low, high = band.least / queue_scale, band.most / queue_scale
                axes.fill_between(edges[:-1], low, high, step="post", color=colour, alpha=0.3, linewidth=0)
            axes.stairs(band.mean / queue_scale, edges, color=colour, linewidth=1.3, baseline=None)
            name = summary.name if len(summary.name) <= _LONGEST_NAME else f"{summary.name[: _LONGEST_NAME - 1]}…"
            axes.set_title(name, loc="left", weight="bold", size=9.5, pad=16)
            longest = float(band.most.max(initial=0)) / queue_scale
            detail = f"at most {rounded(longest, 3)} {queue_name}" if longest else "none"
            axes.annotate(detail, (0, 1), (0, 5), "axes fraction", "offset points", color=FAINT, size=8.5)
            axes.grid(axis="y", color=GRID, linewidth=0.8)
            axes.locator_params(axis="x", nbins=4)
        for unused in list(grid.flat)[len(shown) :]:
            unused.remove()
        for column in range(columns):
            lowest = max(row for row in range(rows) if row * columns + column < len(shown))
            grid[lowest, column].set_xlabel(f"time ({time_name})")
            grid[lowest, column].xaxis.set_tick_params(labelbottom=True)
        for row in range(rows):
            grid[row, 0].set_ylabel(f"longest queue ({queue_name})")
        grid[0, 0].set_ylim(0, 1.12 * (peak / queue_scale or 1))
        grid[0, 0].set_xlim(left=0)
        return to_svg(figure, "queues")


def _band(results: Results, transport: str) -> _Band:
    """All seeds on the widest of their intervals, which are powers of two."""
    runs = [run for run in results.runs if run.transport == transport]
    width_ps = max(run.queues.width_ps for run in runs)
    rows = [_widened(run.queues.max_queue_ps, width_ps // run.queues.width_ps) for run in runs]
    longest = max(map(len, rows))
    table = np.stack([np.pad(row, (0, longest - len(row) + 1)) for row in rows]) / 1e6
    edges = np.arange(longest + 2) * (width_ps / 1e6)
    return _Band(edges, table.min(axis=0), table.mean(axis=0), table.max(axis=0))


def _widened(longest: np.ndarray, factor: int) -> np.ndarray:
    padded = np.pad(longest, (0, -len(longest) % factor))
    return padded.reshape(-1, factor).max(axis=1)


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
