"""The picture of all collectives over time: which ran when, and where the fabric waited for computation."""

from collections import defaultdict
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from netsim.report.drawing import FAINT, GRID, LINE_FILLS, STYLE, new_figure, rounded, time_unit, to_svg
from netsim.report.summary import differ, extremes, summarise
from netsim.results import Results, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_LANES = 6
_LANE, _BETWEEN = 0.11, 0.1
"""Height of a lane and of the gap between operations, in inches."""
_SPOTS = 1200
"""Bars that are closer than this part of the picture's width are drawn as one."""


class _Row(NamedTuple):
    """The collectives of an operation: its name, how many there are, and the bars of each lane, in picoseconds."""

    op: str
    collectives: int
    lanes: Sequence[np.ndarray]


def has_timeline(results: Results) -> bool:
    """Whether there are several collectives."""
    return len(results.spans) > 1


def timeline_title(results: Results) -> str:
    """The finding of `timeline_svg` in one line."""
    fastest, slowest = extremes(summarise(results))
    share = f"Under {fastest.name}, collectives are under way for {_busy(results, fastest.name)} of the time"
    if not differ(summarise(results)):
        return share
    return f"{share}; under {slowest.name}, for {_busy(results, slowest.name)}"


def timeline_svg(results: Results) -> str:
    """Collectives of the first seed from first arrival to last end, a panel for the fastest and the slowest transport.

    Collectives of an operation that overlap are in lanes; where there are more than fit, the last lane holds the rest.
    """
    import matplotlib

    runs = [_first(results, name) for name in _shown(results)]
    longest = max(1, *(run.completion_ps for run in runs))
    panels = [_rows(results, run, longest) for run in runs]
    fills = {row.op: LINE_FILLS[number % len(LINE_FILLS)] for number, row in enumerate(panels[0])}
    heights = [_height(rows) for rows in panels]
    scale, unit = time_unit(longest / 1e6)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(10, 1.2 + sum(heights) + 0.45 * len(runs), timeline_title(results))
        grid = figure.subplots(len(runs), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, run, rows in zip(grid, runs, panels, strict=True):
            _draw(axes, rows, fills, 1e6 * scale)
            axes.axvline(run.completion_ps / 1e6 / scale, color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
            done = f"{run.transport}: done at {rounded(run.completion_ps / 1e6 / scale, 3)} {unit}"
            axes.set_title(done, loc="left", weight="bold", size=9.5)
        grid[-1].set_xlabel(f"time ({unit})")
        grid[-1].set_xlim(0, 1.01 * longest / 1e6 / scale)
        return to_svg(figure, "timeline")


def _shown(results: Results) -> list[str]:
    """The fastest and the slowest transport, or any if they do not differ."""
    fastest, slowest = extremes(summarise(results))
    return [fastest.name, slowest.name] if differ(summarise(results)) else [fastest.name]


def _first(results: Results, transport: str) -> Run:
    return next(run for run in results.runs if run.transport == transport)


def _busy(results: Results, transport: str) -> str:
    run = _first(results, transport)
    busy = int(np.diff(_merged(_times(run), 0)).sum())
    return f"{100 * busy / max(run.completion_ps, 1):.0f} %"


def _times(run: Run) -> np.ndarray:
    """Begin and end of each collective, [collective, 2]."""
    return np.array([(times.start_ps, times.end_ps) for times in run.collectives], dtype=np.int64).reshape(-1, 2)


def _rows(results: Results, run: Run, longest_ps: int) -> list[_Row]:
    """A row an operation, the one with the most time first."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, span in enumerate(results.spans):
        members[span.op].append(index)
    times, spot = _times(run), longest_ps // _SPOTS
    work = {op: int(np.diff(times[indices]).sum()) for op, indices in members.items()}
    order = sorted(members, key=lambda op: -work[op])
    return [_Row(op, len(members[op]), _lanes(times[members[op]], spot)) for op in order]


def _lanes(times: np.ndarray, spot_ps: int) -> list[np.ndarray]:
    """Deals collectives to lanes so that those of a lane do not overlap, as long as there are lanes."""
    lanes: list[list[tuple[int, int]]] = []
    free: list[tuple[int, int]] = []
    for begin, end in sorted(map(tuple, times.tolist())):
        if free and free[0][0] <= begin:
            _, lane = heappop(free)
        elif len(lanes) < _MOST_LANES:
            lane = len(lanes)
            lanes.append([])
        else:
            lanes[-1].append((begin, end))
            continue
        lanes[lane].append((begin, end))
        heappush(free, (end, lane))
    return [_merged(np.array(lane, dtype=np.int64), spot_ps) for lane in lanes]


def _merged(times: np.ndarray, spot_ps: int) -> np.ndarray:
    """The union of intervals, those no further than a spot from each other as one."""
    bars: list[list[int]] = []
    for begin, end in sorted(map(tuple, times.tolist())):
        if bars and begin <= bars[-1][1] + spot_ps:
            bars[-1][1] = max(bars[-1][1], end)
        else:
            bars.append([begin, end])
    return np.array(bars, dtype=np.int64).reshape(-1, 2)


def _height(rows: Sequence[_Row]) -> float:
    return sum(_BETWEEN + _LANE * max(2, len(row.lanes)) for row in rows)


def _draw(axes: "Axes", rows: Sequence[_Row], fills: dict[str, str], unit_ps: float) -> None:
    """Bars of each operation, from the top down."""
    top, ticks = 0.0, []
    for row in rows:
        height = _LANE * max(2, len(row.lanes))
        thick = height / len(row.lanes)
        for lane, bars in enumerate(row.lanes):
            spans = [(begin / unit_ps, (end - begin) / unit_ps) for begin, end in bars.tolist()]
            axes.broken_barh(spans, (top + lane * thick, 0.82 * thick), color=fills[row.op], linewidth=0)
        ticks.append((top + height / 2, f"{row.op}\n{row.collectives:,}"))
        top += height + _BETWEEN
        axes.axhline(top - _BETWEEN / 2, color=GRID, linewidth=0.8)
    axes.set_ylim(top - _BETWEEN / 2, -_BETWEEN / 2)
    axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks], size=8.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
