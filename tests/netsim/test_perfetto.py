"""The trace of the runs, against the rules of the Trace Event Format and the runs themselves."""

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from netsim import Results, simulate
from netsim.report import perfetto
from netsim.report.perfetto import write_trace

GOLDEN_SCENARIO = Path("tests/files/scenario.yaml")


@pytest.fixture(scope="module")
def results() -> Results:
    return simulate(GOLDEN_SCENARIO)


def events(results: Results, folder: Path) -> list[dict[str, Any]]:
    write_trace(results, folder / "trace.json")
    document = json.loads((folder / "trace.json").read_text())
    assert set(document) == {"displayTimeUnit", "otherData", "traceEvents"}
    return document["traceEvents"]


def test_every_event_has_what_its_phase_requires(results, tmp_path):
    required = {
        "M": {"name", "args"},
        "X": {"name", "cat", "tid", "ts", "dur"},
        "b": {"name", "cat", "id", "tid", "ts"},
        "e": {"name", "cat", "id", "tid", "ts"},
        "C": {"name", "ts", "args"},
    }
    seen = set()
    for event in events(results, tmp_path):
        seen.add(event["ph"])
        assert required[event["ph"]] | {"ph", "pid"} <= set(event)
        assert event.get("ts", 0) >= 0
        assert event.get("dur", 0) >= 0
    assert seen == set(required)


def test_a_process_is_a_transport_with_its_first_seed(results, tmp_path):
    names = [event["args"]["name"] for event in events(results, tmp_path) if event["name"] == "process_name"]
    assert names == [f"{run.transport}, seed {run.seed}" for run in results.first_runs()]


def test_slices_of_a_thread_do_not_overlap_and_add_up_to_the_collectives(results, tmp_path):
    threads, sums = defaultdict(list), defaultdict(float)
    for event in events(results, tmp_path):
        if event["ph"] == "X":
            threads[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
            sums[event["pid"], event["args"]["collective"]] += event["dur"]
    for slices in threads.values():
        assert all(earlier[1] <= later[0] + 1e-9 for earlier, later in pairwise(sorted(slices)))
    for pid, run in enumerate(results.first_runs(), start=1):
        for index, (span, times) in enumerate(zip(results.spans, run.collectives, strict=True)):
            assert sums[pid, index] == pytest.approx(times.member_ps * span.ranks / 1e6, abs=span.ranks * 1e-6)


def test_overlapping_slices_get_lanes_and_no_more_than_needed():
    slices = [(0, 0, 10), (0, 2, 4), (0, 4, 12), (1, 5, 6), (0, 10, 11)]
    assert perfetto._lanes(slices) == [(0, 0), (0, 1), (0, 1), (1, 0), (0, 0)]


def test_flows_begin_and_end_as_they_did(results, tmp_path):
    begins, ends = {}, {}
    for event in events(results, tmp_path):
        if event["ph"] in "be" and event["pid"] == 1:
            (begins if event["ph"] == "b" else ends)[event["id"]] = event
    run = results.first_runs()[0]
    assert set(begins) == set(ends) == {f"1.{flow}" for flow in run.flows["id"].tolist()}
    for flow in run.flows:
        begin, end = begins[f"1.{flow['id']}"], ends[f"1.{flow['id']}"]
        assert (begin["ts"], end["ts"]) == (flow["start_ps"] / 1e6, flow["end_ps"] / 1e6)
        assert begin["name"] == end["name"] == f"rank {flow['src']} sends"
        assert begin["args"]["bytes"] == flow["bytes"]


def test_the_longest_queue_is_a_counter_that_returns_to_nothing(results, tmp_path):
    counters = [event for event in events(results, tmp_path) if event["ph"] == "C" and event["pid"] == 1]
    longest = results.first_runs()[0].queues.max_queue_ps.max() / 1e6
    assert max(event["args"]["microseconds"] for event in counters) == longest
    assert counters[-1]["args"]["microseconds"] == 0


def test_a_large_trace_keeps_the_longest_flows_and_says_so(results, tmp_path, monkeypatch):
    monkeypatch.setattr(perfetto, "MOST_FLOWS", 5)
    monkeypatch.setattr(perfetto, "MOST_SLICES", 3)
    kept = events(results, tmp_path)
    about = json.loads((tmp_path / "trace.json").read_text())["otherData"]
    for pid, run in enumerate(results.first_runs(), start=1):
        durations = {f"{pid}.{flow['id']}": flow["end_ps"] - flow["start_ps"] for flow in run.flows}
        mine = [event["id"] for event in kept if event["ph"] == "b" and event["pid"] == pid]
        assert len(mine) == 5
        assert min(durations[flow] for flow in mine) >= sorted(durations.values())[-5]
        assert sum(event["ph"] == "X" and event["pid"] == pid for event in kept) == 3
        said = about[f"{run.transport}, seed {run.seed}"]
        assert said == f"the first 3 of 8 slices of collectives; the 5 longest of {len(run.flows)} flows"
    labels = {event["args"]["labels"] for event in kept if event["name"] == "process_labels"}
    assert labels == set(about.values())
