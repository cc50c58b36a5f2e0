"""Background traffic: its load and sizes, and runs that end without it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netsim.engine.event.engine import EventEngine
from netsim.engine.reference.engine import ReferenceEngine
from netsim.foundation.refusal import Refusal
from netsim.simulation.prepare import prepare
from netsim.simulation.scenario import read_scenario
from netsim.transport.ecmp import Ecmp
from netsim.workload.background import PUBLISHED, Sizes, read_sizes
from tests.each import each
from tests.netsim.documents import collective_of, scenario_on

FABRIC = {"kind": "leaf_spine", "leaves": 2, "spines": 2, "hosts_per_leaf": 4}
COLLECTIVE = collective_of("all_reduce", "400KB")


def scenario(background: dict[str, Any], **more: Any) -> dict[str, Any]:
    noise = {"kind": "background", "load": 0.4, "sizes": "web_search", "until": "2ms"} | background
    jobs = [{"workload": workload, "ranks": list(range(8))} for workload in (COLLECTIVE, noise)]
    return scenario_on(FABRIC, jobs=jobs) | more


def prepared(background: dict[str, Any], **more: Any):
    return prepare(read_scenario(scenario(background, **more)), "scenario")


@each("name", PUBLISHED)
def test_the_mean_size_is_the_one_of_drawn_flows(name):
    sizes = PUBLISHED[name]
    drawn = [sizes.at((place + 0.5) / 200_000) for place in range(200_000)]
    assert np.mean(drawn) == pytest.approx(sizes.mean, rel=1e-3)


def test_a_distribution_by_hand():
    sizes = Sizes((100, 300), (0.5, 1.0))
    assert sizes.mean == 150
    assert [sizes.at(share) for share in (0.1, 0.5, 0.75, 1.0)] == [100, 100, 200, 300]


@each("arrivals", ["poisson", "constant"])
def test_flows_fill_the_share_of_the_hosts_links(arrivals):
    tasks = prepared({"arrivals": arrivals, "until": "400ms"}).scene.tasks
    columns, behind = tasks.columns(), tasks.in_background
    offered = 8 * columns.bytes[behind].sum() / (8 * 100e9 * 0.4)
    assert offered == pytest.approx(0.4, rel=0.12)
    assert (columns.src[behind] != columns.dst[behind]).all()
    assert (columns.delay_ps[behind] <= 400 * 10**9).all()
    assert set(columns.dst[behind].tolist()) == set(range(8))


def test_the_run_ends_with_the_other_jobs_and_they_take_longer():
    found = prepared({"load": 0.6, "until": "20ms"}, congestion={"kind": "dctcp"}).scene
    expected = ReferenceEngine(found, Ecmp(0, 2), 0).run()
    assert EventEngine(found, Ecmp(0, 2), 0).run().equals(expected)
    behind = found.tasks.in_background
    assert expected.completion_ps == expected.task_end_ps[~behind].max()
    assert (expected.task_end_ps <= expected.completion_ps).all()
    assert (expected.flows.end_ps <= expected.completion_ps).all()
    assert 0 < behind[expected.flows.task].sum() < behind.sum()
    quiet = ReferenceEngine(found._replace(tasks=found.tasks.in_foreground), Ecmp(0, 2), 0).run()
    assert quiet.completion_ps < expected.completion_ps


def test_the_run_ends_with_the_whole_instant_in_which_the_last_message_has_arrived():
    """Without delay a transmission ends in the instant in which its packet arrives, and the link has carried it."""
    fabric = FABRIC | {"link_delay": "0ns"}
    jobs = scenario({"load": 0.3, "class": "bulk"})["jobs"]
    jobs[0]["workload"] = {"kind": "collective", "op": "send", "bytes_per_rank": "400KB", "class": "urgent"}
    jobs[0]["ranks"] = [0, 7]
    found = prepared({}, jobs=jobs, topology=fabric, classes=["urgent", "bulk"], watch={"links": True}).scene
    expected = ReferenceEngine(found, Ecmp(0, 2), 0).run()
    assert EventEngine(found, Ecmp(0, 2), 0).run().equals(expected)
    assert expected.watched is not None
    assert expected.watched.bytes[found.topology.down(7)].sum() == expected.links.bytes[found.topology.down(7)]


def test_in_a_class_of_its_own_it_hardly_disturbs():
    """Strict priority: every hop waits for at most one packet of background traffic."""
    jobs = scenario({"load": 0.6, "class": "bulk"})["jobs"]
    jobs[0]["workload"] = COLLECTIVE | {"class": "urgent"}
    found = prepared({}, jobs=jobs, classes=["urgent", "bulk"]).scene
    quiet = EventEngine(found._replace(tasks=found.tasks.in_foreground, classes=1), Ecmp(0, 2), 0).run()
    loud = EventEngine(found, Ecmp(0, 2), 0).run()
    hops = 14 * 4
    assert quiet.completion_ps <= loud.completion_ps <= quiet.completion_ps + hops * 320_000


@each(
    "text, problem",
    [
        ("", "empty|does not end|no "),
        ("10,0.5\n", "does not end"),
        ("10,0.5\n9,1\n", "line 2: is not above"),
        ("10,a\n", "line 1: "),
        ("10,2\n", "line 1: size or share"),
    ],
)
def test_files_of_sizes_that_are_wrong(tmp_path: Path, text: str, problem: str):
    path = tmp_path / "sizes.csv"
    path.write_text(text)
    with pytest.raises(Refusal, match=problem):
        read_sizes(path)


@each(
    "more, problem",
    [
        ({"jobs": scenario({})["jobs"][1:]}, "alone never ends"),
        ({"classes": ["a", "b"]}, "jobs.0.workload.class is missing"),
        ({"classes": []}, "classes"),
        ({"topology": FABRIC | {"buffer": {"kind": "shared", "size": "1MB"}}}, "recovery.kind"),
        (
            {
                "topology": FABRIC | {"buffer": {"kind": "shared", "size": "1MB"}, "queue": "1MB"},
                "recovery": {"kind": "selective"},
            },
            "exclude",
        ),
        ({"topology": FABRIC | {"buffer": {"kind": "shared", "size": "1KB"}}}, "no room"),
        ({"topology": FABRIC | {"buffer": {"kind": "shared", "size": "1MB", "alpha": 0}}}, "alpha"),
        ({"flow_control": {"kind": "pfc", "pause_above": "dynamic"}}, "topology.buffer"),
        ({"flow_control": {"kind": "pfc", "resume_below": "1KB"}}, "resume_at"),
        ({"topology": FABRIC | {"link_errors": {"rate": 1e-6, "retry": "none"}}}, "retry: link"),
        ({"topology": FABRIC | {"link_errors": {"rate": 0.5}}}, "rate"),
        ({"engine": "exact"}, "background traffic"),
        ({"transports": ["ideal"]}, "background traffic"),
    ],
)
def test_scenarios_that_are_wrong(more: dict[str, Any], problem: str):
    with pytest.raises(Refusal, match=problem) as raised:
        prepared({}, **more)
    assert "\n" not in str(raised.value)


@each("wrong", [{"load": 1}, {"load": 0}, {"until": "0us"}, {"sizes": "absent.csv"}, {"seed": -1}])
def test_background_sections_that_are_wrong(wrong: dict[str, Any]):
    with pytest.raises(Refusal):
        prepared(wrong)


def test_memory_without_room_for_headroom_is_refused():
    buffer = {"kind": "shared", "size": "60KB"}
    with pytest.raises(Refusal, match=r"topology.buffer.size: leaf0 needs \d+ B of headroom"):
        prepared({}, topology=FABRIC | {"buffer": buffer}, flow_control={"kind": "pfc", "pause_above": "dynamic"})
