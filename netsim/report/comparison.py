"""The report of a comparison: its page, its pictures, its trace, and where they go."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from netsim.report.about import fabric, workload
from netsim.report.columns import columns, spread, table_rows, transport_name
from netsim.report.completion import completion_svg
from netsim.report.fabric import links_svg
from netsim.report.flows import flows_svg
from netsim.report.layout import drawings
from netsim.report.loads import loads_svg
from netsim.report.operations import operations_svg
from netsim.report.page import Section, figure, page, table
from netsim.report.perfetto import write_trace
from netsim.report.queues import has_queues, queues_svg
from netsim.report.recorded import sentence
from netsim.report.summary import extremes, operations, summarise
from netsim.report.usage import usage
from netsim.results import Results, replacing

PICTURES = ("completion", "operations", "links", "loads", "flows", "queues")


def write_report(results: Results, folder: Path) -> None:
    """Writes report.html, figures/ and trace.json, each file whole or not at all.

    figures/ holds those of `PICTURES` for which there is something to see; one of an earlier report goes otherwise.
    """
    pictures = _pictures(results)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        if name not in pictures:
            (folder / "figures" / f"{name}.svg").unlink(missing_ok=True)
            continue
        with replacing(folder / "figures" / f"{name}.svg") as file:
            file.write(f'<?xml version="1.0" encoding="utf-8"?>\n{pictures[name]}')
    with replacing(folder / "report.html") as file:
        file.write(_page(results, pictures))
    write_trace(results, folder / "trace.json")


def _pictures(results: Results) -> dict[str, str]:
    """Every picture that has something to show, as svg."""
    pictures = {"completion": completion_svg(results), "links": links_svg(results)}
    if operations(results):
        pictures["operations"] = operations_svg(results)
    if any(usage(results, run).busiest is not None for run in results.first_runs()):
        pictures["loads"] = loads_svg(results)
    if all(len(run.flows) for run in results.runs):
        pictures["flows"] = flows_svg(results)
    if has_queues(results):
        pictures["queues"] = queues_svg(results)
    return pictures


def _page(results: Results, pictures: Mapping[str, str]) -> str:
    summaries = summarise(results)
    fastest, _ = extremes(summaries)
    heads = [column.head for column in columns(results)]
    numbers = table(heads, table_rows(results), summaries.index(fastest))
    sections = [
        Section("", f'<p class="lead">{escape(fabric(results))}</p>'),
        *([Section("", f'<p class="lead">{escape(sentence(results))}.</p>')] if results.recorded_ps else []),
        Section("", figure(pictures["completion"], _COMPLETION) + numbers + f'<p class="note">{escape(_NOTE)}</p>'),
        *_operations(results, pictures),
        Section("Where the time goes: links", _links(results, pictures)),
    ]
    if "queues" in pictures:
        sections.append(Section("Queues", figure(pictures["queues"], _QUEUES)))
    if "flows" in pictures:
        sections.append(Section("Flows", figure(pictures["flows"], _FLOWS)))
    sections.append(Section("Scenario", f"<pre>{escape(_scenario(results))}</pre>"))
    return page(workload(results), sections)


_COMPLETION = (
    "Completion of the whole workload: bars are means over the seeds, dots the seeds. No routing of packets can finish "
    "before the dashed line. Flow level: an ideal without packets and queues."
)
_NOTE = (
    "The lower bound is each run's own. flow p99: 99th percentile of the completion times of flows. The longest queue "
    "is that of any seed, the packet in service included. Reordered: part of the packets that arrive behind a later "
    "one of their flow; all parts are means over the seeds."
)
_OPERATIONS = (
    "Time that a rank spends in the collectives of an operation, from coming to one to its being over there, mean over "
    "the ranks; waiting for ranks that an earlier collective has held up counts. Without computation and overlap the "
    "operations add up to the run. Bars are means over the seeds, dots the seeds; percentages are against the "
    "transport that completes first."
)
_DRAWN = (
    "Every link of the fabric, darker the longer it is busy; orange: it hardly ever rests; dotted: it carries nothing."
)
_ROWS = "Hosts lie at the bottom; links towards the top and links towards the hosts are drawn apart."
_SPREAD = "Small lines lead to hosts. Each direction of a cable swings to its own right, as on a road."
_LOADS = (
    "A stroke for each link between switches, of both directions: how long it is busy. The nearer the strokes, the "
    "more even the load; the label says how far the busiest lies above the mean of those in use."
)
_QUEUES = (
    "Longest queue at any switch as packets find it, as the time that its link needs to send it. Line: mean over the "
    "seeds; band: from the least to the most of them."
)
_FLOWS = "Part of all flows, of all seeds, that are done within a time from their own start."


def _links(results: Results, pictures: Mapping[str, str]) -> str:
    """The drawing of the fabric, and how even the loads are."""
    layout = drawings(results.scene.topology)[0]
    merged = " A line to hosts may stand for several of them." if any(len(s.links) > 1 for s in layout.hosts) else ""
    seed = f" Seed {results.runs[0].seed}."
    drawn = figure(pictures["links"], f"{_DRAWN} {_ROWS if layout.rows else _SPREAD}{merged}{seed}")
    return drawn + (figure(pictures["loads"], _LOADS + seed) if "loads" in pictures else "")


def _operations(results: Results, pictures: Mapping[str, str]) -> list[Section]:
    """The section that tells the operations apart, where there is something to tell."""
    summaries, kinds = summarise(results), operations(results)
    if not kinds:
        return []
    fastest, _ = extremes(summaries)
    head = ("transport", *(f"{kind.op}, mean [min, max]" for kind in kinds))
    rows = [
        (transport_name(summary), *(spread(kind.times_us[summary.name]) for kind in kinds)) for summary in summaries
    ]
    body = figure(pictures["operations"], _OPERATIONS) + table(head, rows, summaries.index(fastest))
    return [Section("Time by operation", body)]


def _scenario(results: Results) -> str:
    import yaml

    return yaml.safe_dump(results.scenario, sort_keys=False, default_flow_style=None, width=100)
