"""The picture of the longest queue at any switch over time."""

from typing import NamedTuple

import numpy as np

from netsim.report.drawing import FAINT, GRID, STYLE, colours, new_figure, rounded, time_unit, to_svg
from netsim.report.summary import extremes, summarise
from netsim.results import Results

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
