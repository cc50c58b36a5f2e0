"""The report of a comparison: page, pictures and trace, and their files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from netsim.foundation.page import Facts, Figure, Listing, Note, Section, Table, page
from netsim.foundation.units import format_rate, format_time, in_unit, signed, spread
from netsim.report.collectives import (
    has_timeline,
    operations_svg,
    operations_title,
    phase_rows,
    phases,
    phases_svg,
    phases_title,
    rollout_sentence,
    timeline_svg,
    timeline_title,
)
from netsim.report.completion import completion_svg, completion_title, finding, flows_svg, flows_title, has_flows
from netsim.report.layout import drawings, hosts_in_words, row_name
from netsim.report.links import has_loads, links_svg, links_title, loads_svg, loads_title
from netsim.report.over_time import (
    has_links_over_time,
    has_queues,
    has_windows,
    links_over_time_svg,
    links_over_time_title,
    queues_svg,
    queues_title,
    windows_svg,
    windows_title,
)
from netsim.report.perfetto import write_trace
from netsim.report.tables import (
    algorithm_sections,
    change_finding,
    change_sections,
    columns,
    computed_sections,
    measured_sections,
    recorded_sentence,
    table_rows,
)
from netsim.simulation.results import Pair, Results, replacing
from netsim.simulation.summary import extremes, operations, summarise
from netsim.topology.protocol import Link, gpu_links, network_tiers


class Picture(NamedTuple):
    """A chart of the page and of figures/: whether results have data for it, its finding, its markup, its caption."""

    has_data: Callable[[Results], object]
    title: Callable[[Results], str]
    svg: Callable[[Results], str]
    caption: str


PICTURES = {
    "completion": Picture(
        lambda _: True,
        completion_title,
        completion_svg,
        "Completion of the whole workload. Bars are means over the seeds, dots are the seeds. A dashed line is the "
        "lower bound, before which no routing of packets can finish. Flow level: ideal sharing of links, without "
        "packets and queues.",
    ),
    "timeline": Picture(
        has_timeline,
        timeline_title,
        timeline_svg,
        "Collectives over time: every collective of the first seed, from the arrival of its first rank to the end "
        "at its last, by operation. Those that overlap lie in lanes; where more overlap than there are lanes, the "
        "lowest lane holds the rest. Empty: no collective of that operation is under way. Dashed: the end of the "
        "run.",
    ),
    "phases": Picture(
        phases,
        phases_title,
        phases_svg,
        "Time by phase. Rollouts are calls of the network by which a step collects what it learns from, before its "
        "first micro batch. The time of a phase is that in which collectives of this phase ended, each counted from "
        "the end of the one before it, with the computation in between; the phases add up to the run. Means over "
        "the seeds.",
    ),
    "operations": Picture(
        operations,
        operations_title,
        operations_svg,
        "Time by operation: of a rank in the collectives of an operation, from its arrival at each to the end "
        "there, mean over the ranks. It includes waiting for ranks that an earlier collective has delayed. Without "
        "computation and overlap the times of all operations add up to the run. Bars are means over the seeds, dots "
        "are the seeds. Percentages are relative to the transport that completes first.",
    ),
    "links": Picture(
        lambda _: True,
        links_title,
        links_svg,
        "Every link of the fabric. Orange and wide: the busiest. Dotted: carries nothing.",
    ),
    "loads": Picture(
        has_loads,
        loads_title,
        loads_svg,
        "One stroke for each link between switches and direction, at the time for which the link is busy. The "
        "closer the strokes, the more even the load. The label is the excess of the busiest link over the mean of "
        "all links in use. First seed.",
    ),
    "links_over_time": Picture(
        has_links_over_time,
        links_over_time_title,
        links_over_time_svg,
        "Share of the capacity that data packets use in each interval, for the links between switches that are "
        "busiest at some moment. First seed.",
    ),
    "windows": Picture(
        has_windows,
        windows_title,
        windows_svg,
        "The first flow of each watched message when its acknowledgements arrive: the packets that may be under "
        "way, those that are, and the round trip of the packet acknowledged. First seed.",
    ),
    "queues": Picture(
        has_queues,
        queues_title,
        queues_svg,
        "Longest queue that a packet finds at any switch, as the time that its link needs to send it. Line: mean "
        "over the seeds. Band: minimum to maximum of the seeds.",
    ),
    "flows": Picture(
        has_flows,
        flows_title,
        flows_svg,
        "Share of all flows, over all seeds, that complete within a time from their own start.",
    ),
}
"""Pictures in the order of the page."""
_NOTE = (
    "Every run has a lower bound of its own. flow p99: 99th percentile of the completion times of flows. Longest "
    "queue: the maximum over all seeds, including the packet in service. Reordered: share of the packets that arrive "
    "after a later packet of their flow. Shares are means over the seeds. Blue: the transport that completes first."
)
_ROWS = "Hosts are at the bottom. Links towards the top and links towards the hosts are in separate drawings."
_SPREAD = "Short lines lead to hosts. The two directions of a cable are drawn side by side, as lanes of a road."


def write_report(results: Results, folder: Path, pair: Pair | None = None) -> None:
    """Writes report.html, figures/ and trace.json, each file whole or not at all.

    The page begins with the changes of a pair whose first simulation this is. figures/ holds the pictures of `PICTURES`
    that have data; a picture of an earlier report without data is removed.
    """
    drawn = {name: picture.svg(results) for name, picture in PICTURES.items() if picture.has_data(results)}
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        if name not in drawn:
            (folder / "figures" / f"{name}.svg").unlink(missing_ok=True)
            continue
        with replacing(folder / "figures" / f"{name}.svg") as file:
            file.write(f'<?xml version="1.0" encoding="utf-8"?>\n{drawn[name]}')
    said = finding(results) if pair is None else change_finding(pair)
    sections = [*([] if pair is None else change_sections(pair)), *_sections(results, drawn)]
    with replacing(folder / "report.html") as file:
        file.write(page(workload(results), said, sections, kicker="network simulation"))
    write_trace(results, folder / "trace.json")


def _sections(results: Results, drawn: dict[str, str]) -> Iterator[Section]:
    """The table of all transports, then a section a picture."""
    import yaml

    fastest = summarise(results).index(extremes(summarise(results))[0])
    heads, rows = [column.head for column in columns(results)], table_rows(results)
    best = [(fastest, column) for column in range(len(heads))]
    numbers = Table(heads, rows, _NOTE, dense=len(heads) > 7, best=best)
    completion = Figure(drawn["completion"], PICTURES["completion"].caption)
    yield Section("", [_facts(results), *_remarks(results), numbers], fabric(results))
    yield Section(completion_title(results), [completion])
    for name, svg in drawn.items():
        picture = PICTURES[name]
        if name == "links":
            yield from measured_sections(results)
            yield from computed_sections(results)
            yield from algorithm_sections(results)
            yield Section(picture.title(results), [Figure(svg, f"{picture.caption} {_legend(results)}")])
        elif name != "completion":
            yield Section(picture.title(results), [Figure(svg, picture.caption), *_table_of(name, results)])
    scenario = yaml.safe_dump(results.scenario, sort_keys=False, default_flow_style=None, width=100)
    yield Section("Scenario", [Listing(scenario)])


def _facts(results: Results) -> Facts:
    summaries = summarise(results)
    fastest, slowest = extremes(summaries)
    facts = [("fastest", in_unit(fastest.mean_us), fastest.label)]
    if len(summaries) > 1:
        facts.append(("slowest", in_unit(slowest.mean_us), slowest.label))
    if fastest.bound_us:
        facts.append(("lower bound", in_unit(fastest.bound_us), "no routing of packets beats it"))
        seeds = _counted(len(results.scenario["seeds"]), "seed")
        facts.append(("fastest above the bound", signed(fastest.above_bound), f"mean over {seeds}"))
    return Facts(facts)


def _remarks(results: Results) -> list[Note]:
    """Recorded times of steps beside the predicted ones, and the share of rollouts, where there are some."""
    texts = (text for text in (recorded_sentence(results), rollout_sentence(results)) if text)
    return [Note(f"{text[0].upper()}{text[1:]}.") for text in texts]


def _table_of(name: str, results: Results) -> list[Table]:
    """The table below a picture of phases or operations; empty for other pictures."""
    summaries = summarise(results)
    if name == "phases":
        heads = "phase", "collectives", "payload, MB", *(f"{summary.name}, µs" for summary in summaries)
        return [Table(heads, phase_rows(results), dense=len(heads) > 7)]
    if name == "operations":
        kinds = operations(results)
        heads = "transport", *(f"{kind.name}, mean [min, max]" for kind in kinds)
        rows = [(one.label, *(spread(kind.times_us[one.name]) for kind in kinds)) for one in summaries]
        return [Table(heads, rows, dense=len(heads) > 4)]
    return []


def _legend(results: Results) -> str:
    """Explains the drawing of this fabric in words."""
    drawing = drawings(results.scene.topology)[0]
    merged = " A line to hosts may stand for several hosts." if any(len(s.links) > 1 for s in drawing.hosts) else ""
    return f"{_ROWS if drawing.rows else _SPREAD}{merged} Seed {results.runs[0].seed}."


def workload(results: Results) -> str:
    """The title of the page: the workload, or all workloads of the jobs."""
    jobs = results.scenario.get("jobs", [])
    names = [_workload(job["workload"]) for job in jobs] or [_workload(results.scenario["workload"])]
    return " and ".join(dict.fromkeys(names))


def fabric(results: Results) -> str:
    """The fabric, its packets, and failures, queues and control, in one sentence."""
    topology, scenario = results.scene.topology, results.scenario
    tiers, gpus = network_tiers(topology), gpu_links(topology)
    switches = {name for tier in tiers for name in tier}
    between = [link for link in results.links if {link.src, link.dst} <= switches]
    edge = [results.links[topology.up(host)] for host in range(topology.hosts if gpus is None else gpus.first)]
    rates = f"{_rates(edge)} to hosts" + (f", {_rates(between)} between switches" if between else "")
    alike = ", equal collectives draw alike" if scenario["draws"] == "collective" else ""
    parts = [
        f"{hosts_in_words(topology)} on {_listed([row_name(tier) for tier in tiers])}",
        f"{rates}, {_range((link.delay_ps for link in edge + between), format_time)} a link",
        *([] if gpus is None else [f"{_rates([results.links[topology.up(gpus.first)]])} to each GPU inside hosts"]),
        f"packets of {scenario['packet']['payload']}",
        *_difficulties(scenario),
        _counted(len(scenario["seeds"]), "seed") + alike,
    ]
    return "; ".join(parts) + "."


def _workload(config: dict[str, Any]) -> str:
    if config["kind"] == "collective":
        amount = config.get("bytes_per_rank")
        return f"{config['op']} of {amount} a rank" if amount else f"{config['op']} with uneven splits"
    if config["kind"] == "background":
        return "background traffic"
    if config["kind"] == "model":
        experts = f", {config['experts']} experts each" if "experts" in config else ""
        shape = f"{_counted(config['layers'], 'layer')} of width {config['hidden']}"
        return f"A step of a {config['network']} of {shape}{experts}"
    path = Path(config["path"])
    return f"Flows of {path.name}" if config["kind"] in ("flows", "matrix") else f"Replay of {path.name}"


def _difficulties(scenario: dict[str, Any]) -> list[str]:
    """Failures, length of queues, congestion control, recovery and flow control, where the scenario has them."""
    failures = len(scenario["topology"].get("failures", ()))
    parts = [_counted(failures, "failure")] if failures else []
    queue = scenario["topology"].get("queue", "unlimited")
    parts += [] if queue == "unlimited" else [f"queues of {queue}"]
    kinds = ("congestion", "congestion control"), ("recovery", "recovery"), ("flow_control", "flow control")
    return parts + [f"{name} {scenario[key]['kind']}" for key, name in kinds if scenario[key]["kind"] != "none"]


def _rates(links: Sequence[Link]) -> str:
    return _range((link.rate_bps for link in links), format_rate)


def _range(values: Iterable[int], written: Callable[[int], str]) -> str:
    distinct = sorted(set(values))
    ends = dict.fromkeys((distinct[0], distinct[-1]))
    return " to ".join(written(value) for value in ends)


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"
