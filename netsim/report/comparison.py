"""The report of a comparison: page, pictures and trace, and their files."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from netsim.report.about import fabric, workload
from netsim.report.collectives import heads, operations_svg, phases, phases_svg, rollout_sentence, rows
from netsim.report.completion import completion_svg, flows_svg, has_flows
from netsim.report.layout import drawings
from netsim.report.links import has_loads, links_svg, loads_svg
from netsim.report.over_time import (
    has_links_over_time,
    has_queues,
    has_windows,
    links_over_time_svg,
    queues_svg,
    windows_svg,
)
from netsim.report.page import Section, figure, page, table
from netsim.report.perfetto import write_trace
from netsim.report.summary import extremes, operations, summarise
from netsim.report.tables import algorithm_sections, columns, sentence, spread, table_rows, transport_name
from netsim.report.timeline import has_timeline, timeline_svg
from netsim.results import Results, replacing

PICTURES: Mapping[str, tuple[Callable[[Results], object], Callable[[Results], str]]] = {
    "completion": (lambda _: True, completion_svg),
    "timeline": (has_timeline, timeline_svg),
    "phases": (phases, phases_svg),
    "operations": (operations, operations_svg),
    "links": (lambda _: True, links_svg),
    "loads": (has_loads, loads_svg),
    "flows": (has_flows, flows_svg),
    "queues": (has_queues, queues_svg),
    "links_over_time": (has_links_over_time, links_over_time_svg),
    "windows": (has_windows, windows_svg),
}
"""For each picture whether the results have data for it, and the picture as svg."""


def write_report(results: Results, folder: Path, *, beside: Sequence[Section] = ()) -> None:
    """Writes report.html with `beside` first, figures/ and trace.json, each file whole or not at all.

    figures/ holds the pictures of `PICTURES` that have data; a picture of an earlier report without data is removed.
    """
    pictures = {name: drawn(results) for name, (has_data, drawn) in PICTURES.items() if has_data(results)}
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        if name not in pictures:
            (folder / "figures" / f"{name}.svg").unlink(missing_ok=True)
            continue
        with replacing(folder / "figures" / f"{name}.svg") as file:
            file.write(f'<?xml version="1.0" encoding="utf-8"?>\n{pictures[name]}')
    with replacing(folder / "report.html") as file:
        file.write(_page(results, pictures, beside))
    write_trace(results, folder / "trace.json")


def _page(results: Results, pictures: Mapping[str, str], beside: Sequence[Section]) -> str:
    summaries = summarise(results)
    fastest, _ = extremes(summaries)
    heads = [column.head for column in columns(results)]
    numbers = table(heads, table_rows(results), summaries.index(fastest))
    sections = [
        Section("", f'<p class="lead">{escape(fabric(results))}</p>'),
        *beside,
        *([Section("", f'<p class="lead">{escape(sentence(results))}.</p>')] if results.recorded_ps else []),
        Section("", figure(pictures["completion"], _COMPLETION) + numbers + f'<p class="note">{escape(_NOTE)}</p>'),
        *(
            [Section("Collectives over time", figure(pictures["timeline"], _TIMELINE))]
            if "timeline" in pictures
            else []
        ),
        *_phases(results, pictures),
        *_operations(results, pictures),
        *algorithm_sections(results),
        Section("Where the time goes: links", _links(results, pictures)),
        *_pictured("Links over time", pictures.get("links_over_time"), _LINKS_OVER_TIME),
        *_pictured("Windows of flows", pictures.get("windows"), _WINDOWS),
        *_pictured("Queues", pictures.get("queues"), _QUEUES),
        *_pictured("Flows", pictures.get("flows"), _FLOWS),
        Section("Scenario", f"<pre>{escape(_scenario(results))}</pre>"),
    ]
    return page(workload(results), sections)


_COMPLETION = (
    "Completion of the whole workload. Bars are means over the seeds, dots are the seeds. No routing of packets can "
    "finish before the dashed line, the lower bound. Flow level: ideal sharing of links, without packets and queues."
)
_NOTE = (
    "Every run has a lower bound of its own. flow p99: 99th percentile of the completion times of flows. Longest "
    "queue: the maximum over all seeds, including the packet in service. Reordered: share of the packets that arrive "
    "after a later packet of their flow. Shares are means over the seeds."
)
_TIMELINE = (
    "Every collective of the first seed, from the arrival of its first rank to the end at its last, by operation. "
    "Those that overlap lie in lanes; where more overlap than there are lanes, the lowest lane holds the rest. White: "
    "no collective of that operation is under way. Dashed: the end of the run."
)
_PHASES = (
    "Rollouts are calls of the network by which a step collects what it learns from, before its first micro batch. The "
    "time of a phase is that in which collectives of this phase ended, each counted from the end of the one before it, "
    "with the computation in between; the phases add up to the run. Means over the seeds."
)
_OPERATIONS = (
    "Time of a rank in the collectives of an operation, from its arrival at each to the end there, mean over the "
    "ranks. It includes waiting for ranks that an earlier collective has delayed. Without computation and overlap the "
    "times of all operations add up to the run. Bars are means over the seeds, dots are the seeds. Percentages are "
    "relative to the transport that completes first."
)
_DRAWN = "Every link of the fabric. Darker: busy for longer. Orange: busy nearly all the time. Dotted: carries nothing."
_ROWS = "Hosts are at the bottom. Links towards the top and links towards the hosts are in separate drawings."
_SPREAD = "Short lines lead to hosts. The two directions of a cable are drawn side by side, as lanes of a road."
_LOADS = (
    "One stroke for each link between switches and direction, at the time for which the link is busy. The closer the "
    "strokes, the more even the load. The label is the excess of the busiest link over the mean of all links in use."
)
_QUEUES = (
    "Longest queue that a packet finds at any switch, as the time that its link needs to send it. Line: mean over the "
    "seeds. Band: minimum to maximum of the seeds."
)
_LINKS_OVER_TIME = (
    "Share of the capacity that data packets use in each interval, for the links between switches that are busiest at "
    "some moment. First seed."
)
_WINDOWS = (
    "The first flow of each watched message when its acknowledgements arrive: the packets that may be under way, those "
    "that are, and the round trip of the packet acknowledged. First seed."
)
_FLOWS = "Share of all flows, over all seeds, that complete within a time from their own start."


def _pictured(title: str, picture: str | None, caption: str) -> list[Section]:
    """A section of one picture, if there is one."""
    return [] if picture is None else [Section(title, figure(picture, caption))]


def _links(results: Results, pictures: Mapping[str, str]) -> str:
    """The drawing of the fabric, and how even the loads are."""
    layout = drawings(results.scene.topology)[0]
    merged = " A line to hosts may stand for several hosts." if any(len(s.links) > 1 for s in layout.hosts) else ""
    seed = f" Seed {results.runs[0].seed}."
    drawn = figure(pictures["links"], f"{_DRAWN} {_ROWS if layout.rows else _SPREAD}{merged}{seed}")
    return drawn + (figure(pictures["loads"], _LOADS + seed) if "loads" in pictures else "")


def _phases(results: Results, pictures: Mapping[str, str]) -> list[Section]:
    """The section about rollouts and the other phases, if the workload has rollouts."""
    if not phases(results):
        return []
    said = rollout_sentence(results)
    lead = f"<p>{escape(said[0].upper() + said[1:])}.</p>"
    body = lead + figure(pictures["phases"], _PHASES) + table(heads(results), rows(results))
    return [Section("Time by phase: rollouts", body)]


def _operations(results: Results, pictures: Mapping[str, str]) -> list[Section]:
    """The section about the time of each operation, if there are several collectives."""
    summaries, kinds = summarise(results), operations(results)
    if not kinds:
        return []
    fastest, _ = extremes(summaries)
    head = ("transport", *(f"{kind.name}, mean [min, max]" for kind in kinds))
    rows = [
        (transport_name(summary), *(spread(kind.times_us[summary.name]) for kind in kinds)) for summary in summaries
    ]
    body = figure(pictures["operations"], _OPERATIONS) + table(head, rows, summaries.index(fastest))
    return [Section("Time by operation", body)]


def _scenario(results: Results) -> str:
    import yaml

    return yaml.safe_dump(results.scenario, sort_keys=False, default_flow_style=None, width=100)
