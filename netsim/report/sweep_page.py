"""The page of a sweep: many scenarios, each with its transports, beside each other."""

from collections.abc import Sequence
from html import escape

from netsim.report.columns import microseconds, spread
from netsim.report.page import Section, figure, page
from netsim.report.sweep_figure import sweep_svg
from netsim.report.sweep_map import SweepMap, map_svg
from netsim.report.sweep_summary import CellSummary, Sweep, SweepCell

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
