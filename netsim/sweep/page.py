"""The page of a sweep: which transport is how far above the lower bound in which scenario."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from netsim.foundation.chart import Key, Panel, chart
from netsim.foundation.marks import BLUE, COLOURS, DASHED, DOTTED, GREY, RED, SOLID, HeatMap, Line, Mark, Strokes
from netsim.foundation.page import Figure, Section, Table, page
from netsim.foundation.units import microseconds, spread, time_unit
from netsim.sweep.winners import Sweep, SweepCell, SweepMap, map_section

_PANELS_A_ROW = 4
_MOST_ROWS = 150
_MOST_NUMBERS = 2000
_TICKS = (1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100, 1000)
_FILLS, _DASHES = (BLUE, RED, *COLOURS[2:6]), (SOLID, DASHED, DOTTED)
_EXCESS = ("#f1f4f6", "#f3cf8e", "#ec9640", "#cf4b1f", "#7d1128")
_PICTURE = "Mean completion over the lower bound: no routing of packets goes below 1."
_CELLS = "Bold: the fastest transport of a scenario and those within half a percent; empty: no such run."
_TABLE = "Blue: the fastest transport of a scenario and those within half a percent. summary.csv has the same, to sort."


def sweep_title(sweep: Sweep) -> str:
    """Title: the transport that leads most often, and the worst ratio to the lower bound."""
    leaders = [name for place in sweep.places for name in sweep.leaders(place)]
    best = max(sweep.transports, key=leaders.count)
    packets = [summary for summary in sweep.summaries if not summary.flow_level] or sweep.summaries
    worst = max(packets, key=lambda summary: summary.over_bound)
    worst_case = f"{worst.name} needs up to {worst.over_bound:.3g} times the lower bound"
    if not worst.bound_us:
        worst_case = "no lower bound is known"
    if len(sweep.transports) == 1:
        return worst_case
    return f"{best} is fastest, or as fast, in {leaders.count(best)} of {len(sweep.places)} scenarios; {worst_case}"


def sweep_svg(sweep: Sweep) -> str:
    """One axis: a line a transport. Two: a heat map a transport. More: a row a scenario, a column a transport."""
    if len(sweep.axes) == 1:
        return _along_one_axis(sweep)
    return _heat(sweep)


def _along_one_axis(sweep: Sweep) -> str:
    (axis,) = sweep.axes
    scale, unit = time_unit(max(summary.mean_us for summary in sweep.summaries))
    names = dict(enumerate(sweep.values[axis]))
    times: list[Mark] = []
    ratios: list[Mark] = []
    for number, transport in enumerate(sweep.transports):
        points = {x: sweep.by_place.get(((value,), transport)) for x, value in names.items()}
        known = {x: summary for x, summary in points.items() if summary is not None}
        flow_level = next(iter(known.values())).flow_level
        look = GREY if flow_level else _FILLS[number % len(_FILLS)]
        dash = _DASHES[number // len(_FILLS) % len(_DASHES)]
        seeds = {x: [us / scale for us in summary.completions_us] for x, summary in known.items()}
        times.append(Line([*known], [fmean(us) for us in seeds.values()], look, dash=dash, marker="o"))
        times.append(Strokes([((x, min(us)), (x, max(us))) for x, us in seeds.items()], look))
        ratios.append(Line([*known], [one.over_bound for one in known.values()], look, transport, dash, "o"))
    means = [summary.mean_us for summary in sweep.summaries]
    wide = min(means) > 0 and max(means) > 20 * min(means)
    most = max(summary.over_bound for summary in sweep.summaries)
    shared: Any = {"x": axis, "x_ticks": names}
    return chart(
        [
            Panel(
                times, y=f"completion time ({unit}), range of the seeds", log="y" if wide else "",
                y_limits=(None if wide else 0, None), **shared,
            ),
            Panel(ratios, y="completion over the lower bound", log="y" if most > 20 else "", legend="right", **shared),
        ],
        size=(11, max(4.0, 1.2 + 0.24 * len(sweep.transports))), name="sweep",
    )  # fmt: skip


class _Grid(NamedTuple):
    """A heat map: names of rows and columns, and for each cell its place and transport."""

    name: str
    rows: Sequence[str]
    columns: Sequence[str]
    keys: Sequence[Sequence[tuple[tuple[str, ...], str]]]


def _grids(sweep: Sweep) -> list[_Grid]:
    """A grid a transport, the axis with more values across; else one grid, as far as it is legible."""
    if len(sweep.axes) == 2:
        down, across = sorted(sweep.axes, key=lambda axis: len(sweep.values[axis]))
        rows, columns = sweep.values[down], sweep.values[across]
        swapped = sweep.axes[0] == across
        places = [[(column, row) if swapped else (row, column) for column in columns] for row in rows]
        return [
            _Grid(transport, rows, columns, [[(place, transport) for place in line] for line in places])
            for transport in sweep.transports
        ]
    axes = [axis.rsplit(".", 1)[-1] for axis in sweep.axes]
    places = sweep.places[:_MOST_ROWS]
    names = [", ".join(f"{axis} {value}" for axis, value in zip(axes, place, strict=True)) for place in places]
    return [_Grid("", names, sweep.transports, [[(place, name) for name in sweep.transports] for place in places])]


def _heat(sweep: Sweep) -> str:
    grids = _grids(sweep)
    beside = min(_PANELS_A_ROW, len(grids), max(1, 24 // len(grids[0].columns)))
    ratios = [np.array([[_ratio(sweep, key) for key in line] for line in grid.keys]) for grid in grids]
    most = max(1.05, *(float(np.nanmax(values)) for values in ratios))
    down, across = ("", "") if len(sweep.axes) != 2 else sorted(sweep.axes, key=lambda axis: len(sweep.values[axis]))
    panels = []
    for number, (grid, values) in enumerate(zip(grids, ratios, strict=True)):
        best = {
            (row, column)
            for row, line in enumerate(grid.keys)
            for column, key in enumerate(line)
            if key in sweep.by_place and key[1] in sweep.leaders(key[0])
        }
        texts = [[f"{value:.2f}" if value < 10 else f"{value:.0f}" for value in line] for line in values]
        cells = HeatMap(
            values, _EXCESS, 1, most, log=True, texts=texts if values.size <= _MOST_NUMBERS else None, bold=best
        )
        panels.append(
            Panel(
                [cells], grid.name, x=across if number + beside >= len(grids) else "",
                y=down if number % beside == 0 else "", x_ticks=dict(enumerate(grid.columns)), rows=grid.rows, grid="",
            )
        )  # fmt: skip
    rows = [panels[start : start + beside] for start in range(0, len(panels), beside)]
    ticks = {tick: f"{tick:g}" for tick in _TICKS if tick <= most and (most < 2 or tick in (1, 1.5) or tick >= 2)}
    key = Key("times the lower bound", _EXCESS, 1, most, ticks, log=True)
    line = 0.36 if max(map(len, grids[0].rows)) > 26 else 0.26  # in inches; longer names take two lines
    height = 0.9 + len(rows) * (0.75 + max(line * len(grids[0].rows), 0.9))
    return chart(*rows, size=(11, height), share="both", key=key, name="sweep")


def _ratio(sweep: Sweep, key: tuple[tuple[str, ...], str]) -> float:
    return sweep.by_place[key].over_bound if key in sweep.by_place else np.nan


def sweep_page(cells: Sequence[SweepCell], shown: SweepMap | None = None) -> str:
    """The whole page of a sweep; each cell has its values by dotted key and the content of its results.json."""
    sweep = Sweep(cells)
    axes = [f"{axis} ({', '.join(sweep.values[axis])})" for axis in sweep.axes]
    constant = [f"{key}={value}" for key, value in sweep.constant.items()]
    varies = "; ".join(
        [f"Axes: {' × '.join(axes)}"] * bool(axes) + [f"everywhere {', '.join(constant)}"] * bool(constant)
    )
    scenarios = f"{len(cells):,} scenario{'s' if len(cells) > 1 else ''}"
    transports = f"{len(sweep.transports)} transport{'s' if len(sweep.transports) > 1 else ''}"
    seeds = {len(summary.completions_us) for summary in sweep.summaries}
    said = f"{sweep_title(sweep)} (means over {'one seed' if seeds == {1} else f'up to {max(seeds)} seeds'})."
    caption = _PICTURE if len(sweep.axes) == 1 else f"{_PICTURE} {_CELLS}"
    sections = [
        *([] if shown is None else [map_section(sweep, shown)]),
        Section("How far each transport is above the lower bound", [Figure(sweep_svg(sweep), caption)], varies),
        Section("In numbers", [_table(sweep)]),
    ]
    return page(f"{scenarios}, {transports}", said, sections, kicker="network simulation, sweep")


def _table(sweep: Sweep) -> Table:
    drops = any(summary.dropped_packets for summary in sweep.summaries)
    heads = [*sweep.axes, "transport", "completion, mean [min, max]", "over bound", "flow p99", "longest queue"]
    heads += ["dropped packets"] * drops
    leaders = {place: sweep.leaders(place) for place in sweep.places}
    rows = [
        (
            *place,
            summary.label,
            spread(summary.completions_us),
            f"{summary.over_bound:.3f}" if summary.bound_us else "-",
            f"{microseconds(summary.flow_p99_us)} µs",
            "-" if summary.flow_level else f"{summary.max_queue_bytes / 1000:,.0f} KB",
            *[f"{summary.dropped_packets:,.0f}"] * drops,
        )
        for (place, _), summary in sweep.by_place.items()
    ]
    first = len(sweep.axes)
    fastest = [row for row, (place, name) in enumerate(sweep.by_place) if name in leaders[place]]
    best = {(row, column) for row in fastest for column in (first, first + 1)}
    return Table(heads, rows, _TABLE, dense=len(heads) > 7, best=best)
