"""The page of a sweep, and the picture of its completion times."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from netsim.report.drawing import FAINT, GRID, INK, LINE_DASHES, LINE_FILLS, STYLE, new_figure, time_unit, to_svg
from netsim.report.page import Section, figure, page
from netsim.report.sweep_map import SweepMap, map_svg
from netsim.report.sweep_summary import CellSummary, Sweep, SweepCell
from netsim.report.tables import microseconds, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_PANELS_A_ROW = 4
_MOST_ROWS = 150
_MOST_NUMBERS = 2000
_TICKS = (1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100, 1000)
_FILLS = ("#0072b2", "#d55e00", *LINE_FILLS)


_Key = tuple[tuple[str, ...], str]
"""Place and transport."""


class _Grid(NamedTuple):
    """A heat map: numbers by row and column, NaN where there is none, and which of them stand out."""

    name: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: np.ndarray
    best: np.ndarray


def sweep_title(sweep: Sweep) -> str:
    """The finding of `sweep_svg` in one line."""
    leaders = [name for place in sweep.places for name in sweep.leaders(place)]
    best = max(sweep.transports, key=leaders.count)
    packets = [summary for summary in sweep.summaries if not summary.flow_level] or sweep.summaries
    worst = max(packets, key=lambda summary: summary.over_bound)
    worst_case = f"{worst.transport} needs up to {worst.over_bound:.3g} times the lower bound"
    if len(sweep.transports) == 1:
        return worst_case
    return f"{best} is fastest, or as fast, in {leaders.count(best)} of {len(sweep.places)} scenarios; {worst_case}"


def sweep_svg(sweep: Sweep) -> str:
    """One axis: a line a transport. Two: a heat map a transport. More: a row a scenario, a column a transport."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        if len(sweep.axes) == 1:
            return _along_one_axis(sweep)
        return _heat(sweep, _grids(sweep) if len(sweep.axes) == 2 else [_matrix(sweep)])


def _along_one_axis(sweep: Sweep) -> str:
    (axis,) = sweep.axes
    values = sweep.values[axis]
    scale, unit = time_unit(max(summary.mean_us for summary in sweep.summaries))
    figure = new_figure(10, max(4.0, 1.2 + 0.24 * len(sweep.transports)), sweep_title(sweep))
    times, ratios = figure.subplots(1, 2)
    for number, transport in enumerate(sweep.transports):
        points = [(x, sweep.by_place.get(((value,), transport))) for x, value in enumerate(values)]
        known = [(x, summary) for x, summary in points if summary is not None]
        xs = [x for x, _ in known]
        look: dict[str, Any] = {
            "color": "#b9bec4" if known[0][1].flow_level else _FILLS[number % len(_FILLS)],
            "linestyle": LINE_DASHES[number // len(_FILLS) % len(LINE_DASHES)],
            "marker": "o",
            "markersize": 4.5,
        }
        for axes, ys in (
            (times, [[us / scale for us in summary.completions_us] for _, summary in known]),
            (ratios, [[summary.over_bound] for _, summary in known]),
        ):
            axes.plot(xs, [sum(seeds) / len(seeds) for seeds in ys], label=transport, **look)
            axes.vlines(xs, [min(seeds) for seeds in ys], [max(seeds) for seeds in ys], color=look["color"])
    times.set_ylabel(f"completion time ({unit}), range of the seeds")
    ratios.set_ylabel("completion over the lower bound")
    for axes in (times, ratios):
        axes.set_xticks(range(len(values)), values, rotation=30 if max(map(len, values)) > 8 else 0)
        axes.set_xlabel(axis)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        low, high = axes.get_ylim()
        if low > 0 and high > 20 * low:
            axes.set_yscale("log")
    times.set_ylim(bottom=None if times.get_yscale() == "log" else 0)
    ratios.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    return to_svg(figure, "sweep")


def _grids(sweep: Sweep) -> list[_Grid]:
    """A grid a transport, the axis with more values across."""
    down, across = sorted(sweep.axes, key=lambda axis: len(sweep.values[axis]))
    rows, columns = sweep.values[down], sweep.values[across]
    swapped = sweep.axes[0] == across
    places = [[(column, row) if swapped else (row, column) for column in columns] for row in rows]
    return [
        _grid(sweep, transport, rows, columns, [[(place, transport) for place in line] for line in places])
        for transport in sweep.transports
    ]


def _matrix(sweep: Sweep) -> _Grid:
    """One grid of all scenarios, as far as there is room."""
    axes = [axis.rsplit(".", 1)[-1] for axis in sweep.axes]
    places = sweep.places[:_MOST_ROWS]
    names = [", ".join(f"{axis} {value}" for axis, value in zip(axes, place, strict=True)) for place in places]
    keys = [[(place, transport) for transport in sweep.transports] for place in places]
    return _grid(sweep, "", names, sweep.transports, keys)


def _grid(
    sweep: Sweep, name: str, rows: Sequence[str], columns: Sequence[str], keys: Sequence[Sequence[_Key]]
) -> _Grid:
    summaries = [[sweep.by_place.get(key) for key in line] for line in keys]
    ratios = [[np.nan if summary is None else summary.over_bound for summary in line] for line in summaries]
    best = [[key in sweep.by_place and key[1] in sweep.leaders(key[0]) for key in line] for line in keys]
    return _Grid(name, rows, columns, np.array(ratios), np.array(best))


def _heat(sweep: Sweep, grids: Sequence[_Grid]) -> str:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    columns = min(_PANELS_A_ROW, len(grids), max(1, 24 // len(grids[0].columns)))
    rows = -(-len(grids) // columns)
    height = 0.9 + rows * (0.75 + max(0.24 * len(grids[0].rows), 0.6))
    figure = new_figure(10, height, sweep_title(sweep))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    most = max(1.05, *(float(np.nanmax(grid.values)) for grid in grids))
    fills = LinearSegmentedColormap.from_list("ratio", ["#f1f4f6", "#f3cf8e", "#ec9640", "#cf4b1f", "#7d1128"])
    fills = fills.with_extremes(bad="white")
    norm = LogNorm(1, most, clip=True)
    for axes, grid in zip(panels.flat, grids, strict=False):
        image = axes.imshow(grid.values, cmap=fills, norm=norm, aspect="auto")
        _write(axes, grid, norm)
        axes.set_title(grid.name, loc="left", weight="bold", size=9.5)
        axes.set_xticks(range(len(grid.columns)), grid.columns, size=8, rotation=30 if _long(grid) else 0)
        axes.set_yticks(range(len(grid.rows)), grid.rows, size=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    for unused in list(panels.flat)[len(grids) :]:
        unused.remove()
    if len(sweep.axes) == 2:
        down, across = sorted(sweep.axes, key=lambda axis: len(sweep.values[axis]))
        for line in panels:
            line[0].set_ylabel(down, size=9, color=FAINT)
        figure.supxlabel(across, size=9, color=FAINT)
    bar = figure.colorbar(image, ax=panels, pad=0.01, aspect=26, shrink=min(1.0, 2.2 / height + 0.2))
    ticks = [tick for tick in _TICKS if tick <= most]
    bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    bar.minorticks_off()
    bar.set_label("times the lower bound", size=9)
    bar.outline.set_visible(False)
    return to_svg(figure, "sweep")


def _long(grid: _Grid) -> bool:
    return max(map(len, grid.columns)) * len(grid.columns) > 60


def _write(axes: "Axes", grid: _Grid, norm: Any) -> None:
    """The numbers on their colours; those of the fastest transports stand out."""
    if grid.values.size > _MOST_NUMBERS:
        return
    for (row, column), value in np.ndenumerate(grid.values):
        if np.isnan(value):
            continue
        colour = "white" if norm(value) > 0.6 else INK
        weight = "bold" if grid.best[row, column] else "normal"
        text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
        axes.text(column, row, text, ha="center", va="center", size=7.5, color=colour, weight=weight)


_SORT = """
<script>
document.querySelectorAll("table.sortable th").forEach((head, column) => head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], down = head.dataset.order !== "down";
  head.parentNode.querySelectorAll("th").forEach(other => delete other.dataset.order);
  head.dataset.order = down ? "down" : "up";
  const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const words = (a, b) => key(a).localeCompare(key(b), "en", {numeric: true});
  const compare = (a, b) => isNaN(key(a) - key(b)) ? words(a, b) : key(a) - key(b);
  [...body.rows].sort((a, b) => down ? compare(a, b) : compare(b, a)).forEach(row => body.append(row));
}));
</script>
"""
_PICTURE = "Mean completion over the lower bound: no routing of packets goes below 1."
_CELLS = "Bold: the fastest transport of a scenario and those within half a percent; white: no such run."
_TABLE = "Click on a heading to sort. Bold: the fastest transport of a scenario and those within half a percent."


def sweep_page(cells: Sequence[SweepCell], shown: SweepMap | None = None) -> str:
    """The whole page of cells, at least one, each with its values by dotted key and its results.json."""
    sweep = Sweep(cells)
    axes = [f"{axis} ({', '.join(sweep.values[axis])})" for axis in sweep.axes]
    constant = [f"{key}={value}" for key, value in sweep.constant.items()]
    lead = "; ".join(
        [f"Axes: {' × '.join(axes)}"] * bool(axes) + [f"everywhere {', '.join(constant)}"] * bool(constant)
    )
    scenarios = f"{len(cells):,} scenario{'s' if len(cells) > 1 else ''}"
    return page(
        f"{scenarios}, {len(sweep.transports)} transport{'s' if len(sweep.transports) > 1 else ''}",
        [
            Section("", f'<p class="lead">{escape(lead)}</p>' if lead else ""),
            *([] if shown is None else [Section("", figure(map_svg(sweep, shown), _map_caption(shown)))]),
            Section("", figure(sweep_svg(sweep), _PICTURE if len(sweep.axes) == 1 else f"{_PICTURE} {_CELLS}")),
            Section("In numbers", _table(sweep) + f'<p class="note">{escape(_TABLE)}</p>{_SORT}'),
        ],
    )


def _map_caption(shown: SweepMap) -> str:
    groups = "; ".join(f"{name}: {', '.join(transports)}" for name, transports in shown.groups.items())
    told = (
        "The number says by how much the other group's fastest transport takes longer than that of the group that "
        "wins, in the mean over the seeds. Hatched: the seeds of both overlap, so that nobody wins. Dot: queues "
        "dropped packets under the winner, too, whose time may be that of a timeout."
    )
    return f"{told} Groups: {groups}. White: a run is missing."


def _table(sweep: Sweep) -> str:
    drops = any(summary.dropped_packets for summary in sweep.summaries)
    heads = [*sweep.axes, "transport", "completion, mean [min, max]", "over bound", "flow p99", "longest queue"]
    heads += ["dropped packets"] * drops
    leaders = {place: sweep.leaders(place) for place in sweep.places}
    rows = [_row(summary, drops, summary.transport in leaders[summary.place]) for summary in sweep.summaries]
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(rows)
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _row(summary: CellSummary, drops: bool, fastest: bool) -> str:
    cells = [_cell(value) for value in summary.place]
    cells.append(_cell(f"{summary.transport} (flow level)" if summary.flow_level else summary.transport))
    cells.append(_cell(spread(summary.completions_us), summary.mean_us))
    cells.append(_cell(f"{summary.over_bound:.3f}", summary.over_bound))
    cells.append(_cell(f"{microseconds(summary.flow_p99_us)} µs", summary.flow_p99_us))
    queue = "-" if summary.flow_level else f"{summary.max_queue_bytes / 1000:,.0f} KB"
    cells.append(_cell(queue, summary.max_queue_bytes))
    if drops:
        cells.append(_cell(f"{summary.dropped_packets:,.0f}", summary.dropped_packets))
    kind = ' class="best"' if fastest else ""
    return f"<tr{kind}>{''.join(cells)}</tr>"


def _cell(text: str, value: float | None = None) -> str:
    order = "" if value is None else f' data-value="{value:.6g}"'
    return f"<td{order}>{escape(text)}</td>"
