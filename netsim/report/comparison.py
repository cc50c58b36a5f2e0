"""The report of a comparison: its table, its page, its pictures, and where they go."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from netsim.report.figures import completion_svg, links_svg
from netsim.report.operations import operations_svg
from netsim.report.page import Section, figure, page, table
from netsim.report.summary import TransportSummary, extremes, operations, summarise
from netsim.results import Results, replacing
from netsim.units import format_size

COLUMNS = ("transport", "completion, mean [min, max]", "above bound", "longest queue", "reordered packets", "flow p99")


def table_rows(results: Results) -> list[tuple[str, ...]]:
    """A row of text a transport, under `COLUMNS`."""
    return [_row(summary) for summary in summarise(results)]


def write_report(results: Results, folder: Path) -> None:
    """Writes report.html and figures/, each file whole or not at all.

    figures/ holds completion.svg, links.svg and, where a workload has several collectives, operations.svg; one of an
    earlier report goes otherwise.
    """
    pictures = {"completion": completion_svg(results), "links": links_svg(results)}
    if operations(results):
        pictures["operations"] = operations_svg(results)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, svg in pictures.items():
        with replacing(folder / "figures" / f"{name}.svg") as file:
            file.write(f'<?xml version="1.0" encoding="utf-8"?>\n{svg}')
    if "operations" not in pictures:
        (folder / "figures" / "operations.svg").unlink(missing_ok=True)
    with replacing(folder / "report.html") as file:
        file.write(_page(results, pictures))


def _page(results: Results, pictures: Mapping[str, str]) -> str:
    summaries = summarise(results)
    fastest, _ = extremes(summaries)
    return page(
        _title(results),
        [
            Section("", f'<p class="lead">{escape(_lead(results))}</p>'),
            Section("", figure(pictures["completion"], _COMPLETION)),
            *_operations(results, pictures),
            Section("", figure(pictures["links"], f"{_LINKS} Seed {results.runs[0].seed}.")),
            Section(
                "In numbers",
                table(COLUMNS, table_rows(results), summaries.index(fastest)) + f'<p class="note">{escape(_NOTE)}</p>',
            ),
            Section("Scenario", f"<pre>{escape(_scenario(results))}</pre>"),
        ],
    )


_COMPLETION = (
    "Completion of the whole workload: bars are means over the seeds, dots the seeds. No routing of packets can finish "
    "before the dashed line. Flow level: an ideal without packets and queues."
)
_OPERATIONS = (
    "Time that a rank spends in the collectives of an operation, from coming to one to its being over there, mean over "
    "the ranks; waiting for ranks that an earlier collective has held up counts. Without computation and overlap the "
    "operations add up to the run. Bars are means over the seeds, dots the seeds."
)
_LINKS = (
    "Every link between leaves and spines: a row is a leaf, a column a spine. White is an even share of what the leaf "
    "sends or receives, orange more, blue less."
)
_NOTE = (
    "The lower bound is each run's own. A queue counts the packet in service. Reordered packets arrive behind a later "
    "packet of their flow. flow p99: 99th percentile of the completion times of flows."
)


def _operations(results: Results, pictures: Mapping[str, str]) -> list[Section]:
    """The section that tells the operations apart, where there is something to tell."""
    summaries, kinds = summarise(results), operations(results)
    if not kinds:
        return []
    fastest, _ = extremes(summaries)
    head = ("transport", *(f"{kind.op}, mean [min, max]" for kind in kinds))
    rows = [(_name(summary), *(_spread(kind.times_us[summary.name]) for kind in kinds)) for summary in summaries]
    body = figure(pictures["operations"], _OPERATIONS) + table(head, rows, summaries.index(fastest))
    return [Section("Time by operation", body)]


def _title(results: Results) -> str:
    workloads = [job["workload"] for job in results.scenario.get("jobs", [])] or [results.scenario["workload"]]
    return " and ".join(_workload(workload) for workload in workloads)


def _lead(results: Results) -> str:
    topology = results.scenario["topology"]
    hosts = topology["leaves"] * topology["hosts_per_leaf"]
    seeds = len(results.scenario["seeds"])
    fabric = (
        f"{hosts} hosts on {topology['leaves']} leaves and {topology['spines']} spines; {topology['host_rate']} to "
        f"hosts, {topology['fabric_rate']} between switches, {topology['link_delay']} a link"
    )
    packets = f"packets of {results.scenario['packet']['payload']}"
    return f"{fabric}; {packets}; {seeds} seed{'s' if seeds > 1 else ''}."


def _workload(workload: dict[str, str]) -> str:
    if workload["kind"] == "trace":
        return f"Replay of {Path(workload['path']).name}"
    return f"{workload['op']} of {workload['bytes_per_rank']} a rank"


def _row(summary: TransportSummary) -> tuple[str, ...]:
    name, completion = _name(summary), _spread(summary.completions_us)
    above, p99 = f"+{100 * summary.above_bound:.1f} %", f"{_microseconds(summary.flow_p99_us)} µs"
    if summary.flow_level:
        return name, completion, above, "-", "-", p99
    return name, completion, above, _size(summary.max_queue_bytes), f"{summary.reordered_packets:,.0f}", p99


def _name(summary: TransportSummary) -> str:
    return f"{summary.name} (flow level)" if summary.flow_level else summary.name


def _spread(times_us: Sequence[float]) -> str:
    mean = sum(times_us) / len(times_us)
    return f"{_microseconds(mean)} µs [{_microseconds(min(times_us))}, {_microseconds(max(times_us))}]"


def _microseconds(value: float) -> str:
    return f"{value:,.1f}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1000:,.0f} KB" if size_bytes >= 1000 else format_size(size_bytes)


def _scenario(results: Results) -> str:
    import yaml

    return yaml.safe_dump(results.scenario, sort_keys=False, default_flow_style=None, width=100)
