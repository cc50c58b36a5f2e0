"""The report: what its pictures and its table say, against the runs themselves."""

import re
from collections import Counter
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from netsim import Results, simulate
from netsim.foundation.units import spread
from netsim.report.comparison import PICTURES, fabric, workload, write_report
from netsim.report.completion import completion_svg, completion_title, finding, flows_svg, flows_title
from netsim.report.layout import Stroke, drawings
from netsim.report.links import links_svg, links_title, loads_svg, loads_title, usage
from netsim.report.over_time import queues_svg, queues_title, widened
from netsim.report.tables import columns, table_rows
from netsim.simulation.summary import summarise
from netsim.topology.fat_tree import FatTreeConfig
from netsim.topology.graph import GraphConfig
from netsim.topology.leaf_spine import LeafSpineConfig
from netsim.topology.protocol import Topology
from tests.each import each
from tests.netsim.documents import collective_of, scenario_of
from tests.netsim.traces import TraceWriter

DRAGONFLY = "configs/topologies/dragonfly.json"
BASE = scenario_of(
    4, 4, 2, collective_of("all_to_all", "256KB"), transports=["ecmp", "ethereal", "ideal"], seeds=[0, 1]
)


def simulated(**changes: Any) -> Results:
    return simulate(BASE | changes)


@pytest.fixture(scope="module")
def results() -> Results:
    return simulated()


@pytest.fixture(scope="module")
def lossy() -> Results:
    """Queues of five packets, in which ecmp loses some."""
    shape = {"kind": "leaf_spine", "leaves": 2, "spines": 2, "hosts_per_leaf": 4, "queue": "20KB"}
    recovery = {"kind": "selective", "timeout": "100us"}
    return simulated(topology=shape, recovery=recovery, transports=["ecmp", "spray_random"], seeds=[0])


TOPOLOGIES: dict[str, Topology] = {
    "leaf_spine": LeafSpineConfig(kind="leaf_spine", leaves=3, spines=2, hosts_per_leaf=4, parallel=3).build(),
    "many_hosts": LeafSpineConfig(kind="leaf_spine", leaves=16, spines=2, hosts_per_leaf=50).build(),
    "fat_tree": FatTreeConfig.model_validate({"kind": "fat_tree", "k": 4}).build(),
    "graph": GraphConfig(kind="graph", path=DRAGONFLY).build(),
}


@each("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_every_link_but_those_inside_hosts_is_drawn_once(topology):
    strokes = [stroke for drawing in drawings(topology) for stroke in (*drawing.between, *drawing.hosts)]
    drawn = Counter(link for stroke in strokes for link in stroke.links)
    inside = {topology.inside(host) for host in range(topology.hosts)}
    assert drawn == Counter(set(range(len(topology.links))) - inside)


@each("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_links_begin_and_end_at_their_switches_and_do_not_cover_each_other(topology):
    for drawing in drawings(topology):
        assert len({stroke.points for stroke in drawing.between}) == len(drawing.between)
        for stroke in drawing.between:
            (link,) = stroke.links
            for name, point in (
                (topology.links[link].src, stroke.points[0]),
                (topology.links[link].dst, stroke.points[-1]),
            ):
                assert np.hypot(*np.subtract(drawing.switches[name], point)) < 0.1
        assert all(0 <= coordinate <= 1 for place in drawing.switches.values() for coordinate in place)


def test_links_up_and_links_down_are_drawn_apart():
    up, down = drawings(TOPOLOGIES["fat_tree"])

    def rises(stroke: Stroke) -> bool:
        return stroke.points[0][1] < stroke.points[-1][1]

    assert all(map(rises, up.between))
    assert not any(map(rises, down.between))
    assert [name for name, _ in up.rows] == ["16 hosts", "8 edges", "8 aggregations", "4 cores"]


def test_many_hosts_share_lines_but_not_across_switches():
    topology = TOPOLOGIES["many_hosts"]
    for drawing in drawings(topology):
        assert len(drawing.hosts) <= 256
        for stroke in drawing.hosts:
            ends = [topology.links[link].src + topology.links[link].dst for link in stroke.links]
            assert len({re.sub(r"host\d+", "", end) for end in ends}) == 1


def test_a_graph_is_drawn_the_same_every_time():
    again = GraphConfig(kind="graph", path=DRAGONFLY).build()
    assert drawings(again) == drawings(TOPOLOGIES["graph"])


def test_usage_of_one_flow_has_a_closed_form():
    """40 packets of 320 ns cross four links of 500 ns one after the other."""
    send = collective_of("send", "160KB")
    shape = {"kind": "leaf_spine", "leaves": 2, "spines": 1, "hosts_per_leaf": 1}
    one = simulated(topology=shape, workload=send, transports=["ecmp"], seeds=[0])
    used = usage(one, one.runs[0])
    assert sorted(one.links[link].name for link in used.fabric) == ["leaf0-spine0", "spine0-leaf1"]
    busy_ns, completion_ns = 40 * 320, 40 * 320 + 3 * 320 + 4 * 500
    assert used.busy_us.tolist() == [busy_ns / 1000] * 2
    assert used.most == used.mean == pytest.approx(busy_ns / completion_ns)
    assert used.overload == 0
    assert links_title(one) == "ecmp: busiest fabric link 81 % busy, mean 81 %"
    assert loads_title(one) == "Every transport loads the fabric evenly"


def test_titles_state_what_the_runs_say(results):
    means = {summary.name: summary.mean_us for summary in summarise(results) if not summary.flow_level}
    slowest, fastest = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    percent = 100 * (means[slowest] / means[fastest] - 1)
    assert re.fullmatch(rf"{slowest} takes [\d.]+ % longer than {fastest}", completion_title(results))
    assert float(completion_title(results).split()[2]) == pytest.approx(percent, abs=0.5)
    between = [n for n, link in enumerate(results.links) if "host" not in link.name]
    run = next(run for run in results.runs if run.transport == slowest)
    shares = [run.links["busy_ps"][n] / run.completion_ps for n in between]
    assert links_title(results).startswith(
        f"{slowest}: busiest fabric link {100 * max(shares):.0f} % busy, mean {100 * sum(shares) / len(shares):.0f} %"
    )
    overload = 100 * (max(shares) * len(shares) / sum(shares) - 1)
    assert loads_title(results).startswith(f"{slowest} overloads its busiest fabric link by {overload:.0f} %")
    longest = max(run.queues.max_queue_ps.max() for run in results.runs if run.transport == slowest) / 1e6
    assert queues_title(results).startswith(f"Queues of {slowest} grow to {longest:#.3g} µs")
    assert slowest in flows_title(results)


def test_pictures_are_whole_and_the_same_every_time(results):
    for draw in (completion_svg, links_svg, loads_svg, flows_svg, queues_svg):
        first = draw(results)
        assert ElementTree.fromstring(first).tag.endswith("svg")
        assert draw(results) == first


def test_equal_transports_are_said_to_be_equal_and_look_alike():
    ring = collective_of("all_reduce", "64KB")
    shape = {"kind": "leaf_spine", "leaves": 2, "spines": 1, "hosts_per_leaf": 2}
    equal = simulated(topology=shape, workload=ring, transports=["ecmp", "ethereal"], seeds=[0])
    assert completion_title(equal) == "All transports take the same time, to half a percent"
    assert loads_title(equal) == "Every transport loads the fabric evenly"
    assert "#d55e00" not in completion_svg(equal)
    single = simulated(topology=shape, workload=ring, transports=["ecmp"], seeds=[0])
    assert re.fullmatch(r"ecmp takes [\d.]+ µs, [\d.]+ % above the lower bound", completion_title(single))


def test_links_without_traffic_are_dotted(results):
    assert "stroke-dasharray" not in links_svg(results)
    send = collective_of("send", "160KB")
    assert "stroke-dasharray" in links_svg(simulated(workload=send, transports=["ecmp"], seeds=[0]))


def test_the_table_has_the_columns_that_say_something(results, lossy):
    assert [column.head for column in columns(results)][-2:] == ["longest queue", "reordered"]
    heads = [column.head for column in columns(lossy)]
    assert "dropped" in heads
    assert "sent again" in heads
    assert not {"paused", "marked", "trimmed"} & set(heads)
    for row, run in zip(table_rows(lossy), lossy.runs, strict=True):
        part = f"{100 * run.losses.dropped / run.packets:.2g} %" if run.losses.dropped else "0"
        assert row[heads.index("dropped")] == part
    assert table_rows(results)[-1][-2:] == ("-", "-")


def test_a_single_time_has_no_spread():
    assert spread([2.0, 4.0]) == "3.0 µs [2.0, 4.0]"
    assert spread([1234.5]) == "1,234.5 µs"


def test_queues_of_seeds_meet_on_the_widest_intervals():
    rng = np.random.default_rng(0)
    for length in (1, 7, 128, 255):
        fine = rng.integers(0, 1000, length)
        for factor in (1, 2, 8):
            wide = widened(fine, factor)
            assert wide.tolist() == [fine[at : at + factor].max() for at in range(0, length, factor)]


@each(
    "topology, said",
    [
        ({"kind": "leaf_spine", "leaves": 2, "spines": 1, "hosts_per_leaf": 1}, "2 hosts on 2 leaves and 1 spine; "),
        ({"kind": "fat_tree", "k": 2}, "2 hosts on 2 edges, 2 aggregations and 1 core; "),
        ({"kind": "graph", "path": DRAGONFLY}, "40 hosts on 20 switches; "),
    ],
)
def test_every_kind_of_fabric_is_told_and_drawn(topology, said):
    pair = {"workload": BASE["workload"] | {"op": "send", "bytes_per_rank": "8KB"}, "ranks": [0, 1]}
    scenario = {key: value for key, value in BASE.items() if key != "workload"} | {"jobs": [pair]}
    told = simulate(scenario | {"topology": topology, "transports": ["ecmp"], "seeds": [0]})
    assert fabric(told).startswith(said)
    assert workload(told) == "send of 8KB a rank"
    assert ElementTree.fromstring(links_svg(told)).tag.endswith("svg")


@pytest.mark.usefixtures("blank_pictures_here")
def test_the_title_names_background_traffic_beside_the_other_jobs(tmp_path):
    of_ranks = [
        (collective_of("all_gather", "16KB"), [0, 1]),
        ({"kind": "background", "load": 0.3, "until": "1us"}, [2, 3]),
    ]
    jobs = [{"workload": workload, "ranks": ranks} for workload, ranks in of_ranks]
    scenario = {key: value for key, value in BASE.items() if key != "workload"} | {"jobs": jobs}
    results = simulate(scenario | {"transports": ["ecmp"], "seeds": [0]})
    write_report(results, tmp_path)
    assert workload(results) == "all_gather of 16KB a rank and background traffic"


@pytest.mark.usefixtures("blank_pictures_here")
def test_flow_level_alone_has_no_queues(tmp_path):
    write_report(simulated(transports=["ideal"], seeds=[0]), tmp_path)
    assert PICTURES["queues"].caption not in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "figures" / "queues.svg").exists()


@pytest.mark.usefixtures("blank_pictures_here")
def test_a_report_without_flows_is_a_report(tmp_path):
    (tmp_path / "figures").mkdir()
    for name in PICTURES:
        (tmp_path / "figures" / f"{name}.svg").write_text("of an earlier report")
    trace = TraceWriter(2)
    trace.barrier()
    workload = {"kind": "trace", "path": str(trace.write(tmp_path / "trace.jsonl"))}
    still = simulated(workload=workload, transports=["ecmp", "ideal"], seeds=[0])
    still.write(tmp_path)
    write_report(still, tmp_path)
    left = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert left == {"completion", "links"}
    assert links_title(still) == "No traffic crosses the fabric"


@pytest.mark.usefixtures("blank_pictures_here")
def test_the_page_begins_with_who_wins_by_what_margin_and_how_sure_that_is(results, tmp_path):
    first, second = sorted((s for s in summarise(results) if not s.flow_level), key=lambda s: s.mean_us)
    said = finding(results)
    assert said.startswith(f"{first.name} completes first, in ")
    assert f"and {100 * (second.mean_us / first.mean_us - 1):.1f} % before {second.name} (2 seeds, which " in said
    assert ("do not overlap" in said) == (max(first.completions_us) < min(second.completions_us))
    write_report(results, tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert said in text
    for row in table_rows(results):
        assert all(f">{cell}</td>" in text for cell in row)


def test_without_the_compiled_core_no_bound_is_shown(monkeypatch, request, tmp_path):
    """The user is told once why, and the figures in results.json still hold."""
    monkeypatch.setattr("netsim.simulation.prepare.is_core_built", lambda: False)
    found = simulated(engine="simpy", transports=["ecmp", "ethereal"], seeds=[0])
    assert [notice for notice in found.notices if "lower bound" in notice] == list(found.notices)[-1:]
    assert [run.bound_ps for run in found.runs] == [0, 0]
    assert "above bound" not in [column.head for column in columns(found)]
    assert "bound" not in completion_title(found) + finding(found) + completion_svg(found)
    request.getfixturevalue("blank_pictures_here")
    write_report(found, tmp_path)
    assert "above the bound" not in (tmp_path / "report.html").read_text()
