"""Queues over time, and the links and windows that a scenario watches."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from netsim.congestion.protocol import UNLIMITED
from netsim.foundation.chart import Key, Panel, bent, chart
from netsim.foundation.marks import COLOURS, Band, Dots, HeatMap, Line, Mark
from netsim.foundation.units import PICOSECONDS_PER_SECOND, in_unit, rounded, time_unit
from netsim.report.completion import colours
from netsim.simulation.results import Results, Run
from netsim.simulation.summary import by_transport, extreme_runs, extremes, summarise

_PANELS_A_ROW = 4
_FULLNESS = ("#f1f4f6", "#cadfee", "#9cc3de", "#5aa2d0", "#1f77b4", "#d55e00")
"""Colours of shares of a link's capacity; those of nearly full links stand out."""
_LINKS = 24
_FLOWS = 6


class _Queues(NamedTuple):
    """Longest queue over time, in microseconds, over all seeds: the least, the mean and the most of them."""

    begins_us: np.ndarray
    least: np.ndarray
    mean: np.ndarray
    most: np.ndarray

    @property
    def peak(self) -> float:
        return float(self.most.max(initial=0))


def has_queues(results: Results) -> bool:
    """Whether any run had packets that found a queue."""
    return any(run.engine != "fluid" and run.queues.max_queue_ps.any() for run in results.runs)


def queues_title(results: Results) -> str:
    """Title: the longest queues of the slowest and of the fastest transport."""
    fastest, slowest = (summary.name for summary in extremes(summarise(results)))
    peaks = {name: _queues(results, name).peak for name in (fastest, slowest)}
    scale, unit = time_unit(max(peaks.values()))
    longest = {name: f"{rounded(peak / scale, 3)} {unit}" if peak else "none" for name, peak in peaks.items()}
    if fastest == slowest:
        return f"Queues of {fastest} grow to {longest[fastest]}"
    return f"Queues of {slowest} grow to {longest[slowest]}, those of {fastest} to {longest[fastest]}"


def queues_svg(results: Results) -> str:
    """The longest queue at any switch over time, a panel a transport; the band spans the seeds, the line is their mean.

    A queue counts as the time that its link takes to send it. Needs a run with packets.
    """
    both = zip(summarise(results), colours(summarise(results)), strict=True)
    shown = {summary.name: colour for summary, colour in both if not summary.flow_level}
    queues = {name: _queues(results, name) for name in shown}
    scale, unit = time_unit(max(float(queue.begins_us[-1]) for queue in queues.values()))
    peak = max(queue.peak for queue in queues.values())
    high, high_unit = time_unit(peak)
    columns = min(_PANELS_A_ROW, len(shown))
    panels = []
    for number, (name, colour) in enumerate(shown.items()):
        queue = queues[name]
        times = queue.begins_us / scale
        marks = [
            Band(times, 0 * times, queue.mean / high, colour, steps=True, alpha=0.28),
            Band(times, queue.least / high, queue.most / high, colour, steps=True, alpha=0.3),
            Line(times, queue.mean / high, colour, width=1.3, steps=True),
        ]
        lowest = number + columns >= len(shown)
        panels.append(
            Panel(
                marks, title=bent([name])[0], note=f"at most {in_unit(queue.peak, 3)}" if queue.peak else "none",
                x=f"time ({unit})" if lowest else "", y=f"longest queue ({high_unit})" if number % columns == 0 else "",
                x_limits=(0, None), y_limits=(0, 1.12 * (peak / high or 1)),
            )
        )  # fmt: skip
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    return chart(*rows, size=(11, 0.6 + 2.1 * len(rows)), share="both", name="queues")


def _queues(results: Results, transport: str) -> _Queues:
    """The queues of all seeds of a transport, on the widest of their intervals, which are powers of two."""
    runs = by_transport(results)[transport]
    width_ps = max(run.queues.width_ps for run in runs)
    rows = [widened(run.queues.max_queue_ps, width_ps // run.queues.width_ps) for run in runs]
    longest = max(map(len, rows))
    table = np.stack([np.pad(row, (0, longest - len(row) + 1)) for row in rows]) / 1e6
    return _Queues(np.arange(longest + 1) * (width_ps / 1e6), table.min(0), table.mean(0), table.max(0))


def widened(longest: np.ndarray, factor: int) -> np.ndarray:
    """The longest queue of each interval, with intervals `factor` times as wide."""
    padded = np.pad(longest, (0, -len(longest) % factor))
    return padded.reshape(-1, factor).max(axis=1)


def has_links_over_time(results: Results) -> bool:
    """Whether links are watched."""
    return any(run.watched is not None and run.watched.bytes.size for run in results.first_runs())


def links_over_time_title(results: Results) -> str:
    """Title: the share of time in which links are full, under the fastest and the slowest transport."""
    parts = []
    for run in _watched(results):
        shares = _loads(results, run)[1]
        full = (shares > 0.95).sum(axis=0)
        moments = int((shares.max(axis=0, initial=0) > 0).sum())
        hot = 100 * int((full > 0).sum()) / max(moments, 1)
        most = full.max(initial=0)
        parts.append(f"{run.transport}: some link is full for {hot:.0f} % of the time, at most {most} at once")
    return "; ".join(parts)


def links_over_time_svg(results: Results) -> str:
    """The links between switches that are busiest at some moment, over time; the fastest and the slowest transport."""
    runs = _watched(results)
    loads = [_loads(results, run) for run in runs]
    longest = max(run.watched.width_ps * run.watched.bytes.shape[1] for run in runs if run.watched is not None)
    scale, unit = time_unit(longest / 1e6)
    panels = []
    for run, (names, shares) in zip(runs, loads, strict=True):
        shown = shares[:_LINKS]
        end = (run.watched.width_ps if run.watched else 1) * shown.shape[1] / 1e6 / scale
        cells = HeatMap(shown, _FULLNESS, extent=(0, end, len(shown) - 0.5, -0.5))
        title = f"{run.transport}: the {len(shown)} busiest of {len(names)} links"
        limits = (0, longest / 1e6 / scale)
        panels.append([Panel([cells], title, x=f"time ({unit})", x_limits=limits, rows=names[:_LINKS], grid="")])
    rows = [min(_LINKS, len(names)) for names, _ in loads]
    key = Key("share of the capacity in use", _FULLNESS, texts={0: "idle", 0.5: "50 %", 1: "full"})
    height = 1.1 + 0.4 * len(runs) + 0.18 * sum(rows)
    return chart(*panels, size=(11, height), share="x", heights=rows, key=key, name="links_over_time")


def _loads(results: Results, run: Run) -> tuple[Sequence[str], np.ndarray]:
    """Names of links between switches, or of hosts where there are none, the busiest first, and their shares in use."""
    assert run.watched is not None
    between = [index for index, link in enumerate(results.links) if "host" not in (link.src[:4], link.dst[:4])]
    chosen = np.array(between or range(len(results.links)))
    rates = np.array([results.links[index].rate_bps for index in chosen.tolist()])
    capacity = rates[:, None] * (run.watched.width_ps / 8 / PICOSECONDS_PER_SECOND)
    shares = np.minimum(run.watched.bytes[chosen] / capacity, 1.0)
    order = np.lexsort((-shares.sum(axis=1), -shares.max(axis=1, initial=0)))
    return [results.links[index].name for index in chosen[order].tolist()], shares[order]


def has_windows(results: Results) -> bool:
    """Whether flows are watched and were acknowledged."""
    return any(run.watched is not None and any(map(len, run.watched.samples)) for run in results.first_runs())


def windows_title(results: Results) -> str:
    """Title: the range of round trips of the fastest and of the slowest transport."""
    parts = []
    for run in _watched(results):
        trips = [samples["round_trip_ps"] for _, samples in _samples(results, run)]
        if trips:
            least, most = min(int(trip.min()) for trip in trips), max(int(trip.max()) for trip in trips)
            parts.append(f"{run.transport}: round trips from {rounded(least / 1e6, 3)} to {rounded(most / 1e6, 3)} µs")
    return "; ".join(parts)


def windows_svg(results: Results) -> str:
    """Window, packets in flight and round trip of the first watched flows; the fastest and the slowest transport."""
    runs = [run for run in _watched(results) if _samples(results, run)]
    scale, unit = time_unit(max(run.completion_ps for run in runs) / 1e6)
    rows = []
    for run in runs:
        windows: list[Mark] = []
        trips: list[Mark] = []
        for number, (name, samples) in enumerate(_samples(results, run)):
            times, colour = samples["time_ps"] / 1e6 / scale, COLOURS[number]
            if samples["window"].max() < UNLIMITED:
                windows.append(Line(times, samples["window"], colour, width=1.3, steps=True))
            windows.append(Band(times, 0 * times, samples["in_flight"], colour, steps=True, alpha=0.15))
            trips.append(Dots(times, samples["round_trip_ps"] / 1e6, colour, name, size=5))
        below = f"time ({unit})" if run is runs[-1] else ""
        limits = {"x": below, "x_limits": (0, None), "y_limits": (0, None)}
        window = Panel(windows, f"{run.transport}: window (line), in flight (area)", y="packets", **limits)
        rows.append([window, Panel(trips, "round trip of each packet", y="µs", legend="right", **limits)])
    return chart(*rows, size=(11, 0.9 + 2.1 * len(runs)), share="x", name="windows")


def _samples(results: Results, run: Run) -> list[tuple[str, np.ndarray]]:
    """Samples of the first flows that have any, each with the ranks of its message."""
    if run.watched is None:
        return []
    tasks = results.scene.tasks.columns()
    both = zip(run.watched.tasks[:_FLOWS], run.watched.samples[:_FLOWS], strict=True)
    return [(f"{tasks.src[task]} → {tasks.dst[task]}", samples) for task, samples in both if len(samples)]


def _watched(results: Results) -> list[Run]:
    """First seeds of the fastest and the slowest transport that were watched."""
    return [run for run in extreme_runs(results) if run.watched is not None]
