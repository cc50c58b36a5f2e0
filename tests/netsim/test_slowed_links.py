"""Links that a failure slows: the bytes that queue in front of them, and what ideal spreading makes of them."""

from itertools import product
from pathlib import Path

import pytest

from netsim import simulate
from netsim.__main__ import main
from netsim.simulation.prepare import Prepared
from tests.each import each
from tests.netsim.documents import collective_of, scenario_of

pytestmark = pytest.mark.usefixtures("blank_pictures")

US = 10**6
FIRST_PS, SERVICE_PS, SLOW_PS = 820_000, 320_000, 5_120_000
"""4000 B at 100 Gbps: arrival of the first packet at the leaf, after 500 ns; service there, and at 6.25 Gbps."""
PACKETS = 250
LAST_PS = PACKETS * SERVICE_PS + 500_000
"""Arrival of the last packets of two hosts that send as fast as they can."""
ENGINES = {
    "simpy": {"engine": "simpy"},
    "exact": {"engine": "exact"},
    "event": {"engine": "event"},
    "windowed": {"engine": "windowed"},
    "simpy, in queues": {"engine": "simpy", "classes": ["only"]},
    "event, in queues": {"engine": "event", "classes": ["only", "other"]},
    "windowed, in queues": {"engine": "windowed", "classes": ["only", "other"]},
}


def scenario(tmp_path: Path, failure: dict[str, str], **sections: object) -> dict[str, object]:
    """Two hosts send 1 MB each over one spine, whose cable to their leaf fails."""
    flows = tmp_path / "flows.csv"
    flows.write_text("src,dst,bytes,start_ns\n0,2,1000000,0\n1,3,1000000,0\n", encoding="utf-8")
    workload: dict[str, object] = {"kind": "flows", "path": str(flows)}
    if "classes" in sections:
        workload["class"] = "only"
    failures = [{"link": "leaf0-spine0", "rate": "6.25Gbps", **failure}]
    return scenario_of(2, 1, 2, workload, {"failures": failures}, **sections)


def queue_at_the_end(change_ps: int, before_ps: int, after_ps: int) -> int:
    """Bytes in front of the link when the last packet joins: the rate changes once, between two packets."""
    begun = -(-(change_ps - FIRST_PS) // before_ps) if change_ps > FIRST_PS else 0
    left_ps = LAST_PS - FIRST_PS - begun * before_ps
    return 2 * PACKETS * 4000 - begun * 4000 - 4000 * left_ps // after_ps


CASES = {
    "slow from the beginning": ({}, queue_at_the_end(0, SERVICE_PS, SLOW_PS)),
    "slow from 40 us on": ({"at": "40us"}, queue_at_the_end(40 * US, SERVICE_PS, SLOW_PS)),
    "slow until 40 us": ({"until": "40us"}, queue_at_the_end(40 * US, SLOW_PS, SERVICE_PS)),
}


@each("engine, case", product(ENGINES, CASES))
def test_the_longest_queue_is_the_bytes_that_wait_whatever_the_rate(case, engine, tmp_path):
    failure, expected = CASES[case]
    results = simulate(scenario(tmp_path, failure, **ENGINES[engine]))
    (run,) = results.runs
    queues = dict(zip((link.name for link in results.links), run.queue_bytes(results.links), strict=True))
    assert queues["leaf0-spine0"] == expected < 2 * PACKETS * 4000
    assert run.to_dict(results.links)["max_queue_bytes"] == expected


@each("failure", [{}, {"at": "10us"}, {"until": "30us"}, {"at": "10us", "until": "30us"}], ids=str)
def test_ideal_spreads_as_the_rates_of_paths_allow(failure):
    """A slow link takes its part and no more, so that no packet routing ends before ideal but by rounding."""
    failures = {"failures": [{"link": "leaf0-spine3", "rate": "6.25Gbps", **failure}]}
    kinds = ["jsq", "spray_random", "ideal"]
    content = scenario_of(2, 4, 4, collective_of("all_to_all", "1MB"), failures, transports=kinds)
    jsq, spray, ideal = simulate(content).runs
    assert ideal.bound_ps <= ideal.completion_ps < min(jsq.completion_ps, spray.completion_ps)


def test_ideal_fills_slow_spines_in_proportion():
    """Two hosts send through spines of 100 and 25 Gbps: at 125 Gbps in all, plus the latency of the last packet."""
    rates = ["100Gbps", "25Gbps"]
    content = scenario_of(
        2, 2, 2, collective_of("all_to_all", "4MB"), topology={"fabric_rate": rates}, transports=["ideal"]
    )
    (run,) = simulate(content).runs
    crossing_us = 4 * 10**6 * 8 / 125e3
    latency_us = 3 * 0.32 + 4 * 0.5
    assert run.completion_ps / US == pytest.approx(crossing_us + latency_us, abs=1e-3)


def test_compare_fails_on_a_run_below_its_bound(tmp_path, monkeypatch, capsys):
    class Wrong:
        ps = 10**12

        def of_run(self, _: object) -> int:
            return self.ps

    monkeypatch.setattr(Prepared, "bound", Wrong())
    path = tmp_path / "s.yaml"
    path.write_text(
        "format: flowfabric.scenario/1\ntopology: {kind: leaf_spine, leaves: 2, spines: 2, hosts_per_leaf: 2}\n"
        "workload: {kind: collective, op: all_to_all, bytes_per_rank: 16KB}\ntransports: [ecmp]\nseeds: [0]\n"
    )
    assert main(["compare", str(path), "--jobs", "1", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "ecmp, seed 0, ends after" in said[0]
    assert "before its lower bound of 1s" in said[0]
    assert not (tmp_path / "out").exists()


def test_a_failure_after_the_end_is_reported(tmp_path):
    (notice,) = simulate(scenario(tmp_path, {"at": "10ms"})).notices
    assert notice.startswith("topology.failures.0 begins at 10ms and changes nothing: the longest run ends after 16")
    assert not simulate(scenario(tmp_path, {"at": "40us"})).notices
