"""The runs as a trace for Perfetto or chrome://tracing: ranks, flows and queues over time.

A JSON object of the Trace Event Format: one process for each transport, of the first seed. One thread for each rank,
with a slice for each collective, from the rank's arrival to the end; overlapping collectives are in a second thread.
Flows are asynchronous slices under the rank that sends, the longest queue is a counter. ``otherData`` lists what was
left out.
"""

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from netsim.simulation.results import Results, Run, replacing

MOST_SLICES = 10_000
"""Most slices of collectives kept per transport, the earliest first."""
MOST_FLOWS = 2_000
"""Most flows kept per transport, the longest first."""

Event = dict[str, Any]


def write_trace(results: Results, path: Path) -> None:
    """Writes the trace, an event a line; at most about two megabytes a transport."""
    runs = list(enumerate(results.first_runs(), start=1))
    about = {f"{run.transport}, seed {run.seed}": _kept(results, run) for _, run in runs}
    with replacing(path) as file:
        head = json.dumps({"displayTimeUnit": "ns", "otherData": about})
        file.write(f'{head[:-1]}, "traceEvents": [')
        events = (event for pid, run in runs for event in _events(results, run, pid))
        for number, event in enumerate(events):
            file.write((",\n" if number else "\n") + json.dumps(event, separators=(",", ":")))
        file.write("\n]}\n")


def _kept(results: Results, run: Run) -> str:
    slices, flows = sum(span.ranks for span in results.spans), len(run.flows)
    kept = [f"the first {MOST_SLICES:,} of {slices:,} slices of collectives"] if slices > MOST_SLICES else []
    kept += [f"the {MOST_FLOWS:,} longest of {flows:,} flows"] if flows > MOST_FLOWS else []
    return "; ".join(kept) or "everything"


def _events(results: Results, run: Run, pid: int) -> Iterator[Event]:
    yield _named("process_name", pid, 0, f"{run.transport}, seed {run.seed}")
    yield {"name": "process_sort_index", "ph": "M", "pid": pid, "args": {"sort_index": pid}}
    yield _named("process_labels", pid, 0, _kept(results, run), "labels")
    yield from _collectives(results, run, pid)
    yield from _flows(run, pid)
    yield from _queues(run, pid)


def _collectives(results: Results, run: Run, pid: int) -> Iterator[Event]:
    """Yields collectives as complete events; events of one thread do not overlap."""
    slices = sorted(_slices(results, run))[:MOST_SLICES]
    lanes = _lanes([(rank, start, end) for start, end, rank, _ in slices])
    threads = {lane: number for number, lane in enumerate(sorted(set(lanes)), start=1)}
    for (rank, lane), tid in threads.items():
        yield _named("thread_name", pid, tid, f"rank {rank}" + (f", overlapping {lane}" if lane else ""))
        yield {"name": "thread_sort_index", "ph": "M", "pid": pid, "tid": tid, "args": {"sort_index": tid}}
    for (start, end, _, index), lane in zip(slices, lanes, strict=True):
        span = results.spans[index]
        known = {"group": span.group, "step": span.step, "phase": span.phase, "layer": span.layer}
        about = {name: value for name, value in known.items() if value is not None}
        yield {
            "name": span.op,
            "cat": "collective",
            "ph": "X",
            "pid": pid,
            "tid": threads[lane],
            "ts": start / 1e6,
            "dur": (end - start) / 1e6,
            "args": {"collective": index, "ranks": span.ranks, "bytes": span.bytes, **about},
        }


def _slices(results: Results, run: Run) -> Iterator[tuple[int, int, int, int]]:
    """Start, end, rank and collective of every member of every collective."""
    tasks = results.scene.tasks
    for index, (span, members) in enumerate(zip(results.spans, run.members, strict=True)):
        for task, (come, over) in zip(span.over, members.tolist(), strict=True):
            yield come, over, tasks[task].src, index


def _lanes(slices: Iterable[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Rank and first free lane of each slice; the slices of a rank come in the order of their starts."""
    free: dict[int, list[int]] = {}
    busy: dict[int, list[tuple[int, int]]] = {}
    lanes: list[tuple[int, int]] = []
    for rank, start, end in slices:
        idle, running = free.setdefault(rank, []), busy.setdefault(rank, [])
        while running and running[0][0] <= start:
            heapq.heappush(idle, heapq.heappop(running)[1])
        lane = heapq.heappop(idle) if idle else len(running)
        heapq.heappush(running, (end, lane))
        lanes.append((rank, lane))
    return lanes


def _flows(run: Run, pid: int) -> Iterator[Event]:
    """Yields flows as nestable asynchronous events; a sender's flows share a name, so that a viewer groups them."""
    durations = run.flows["end_ps"] - run.flows["start_ps"]
    longest = np.sort(np.argsort(-durations, kind="stable")[:MOST_FLOWS])
    for flow in run.flows[longest]:
        common = {"name": f"rank {flow['src']} sends", "cat": "flow", "pid": pid, "tid": 0, "id": f"{pid}.{flow['id']}"}
        counts = ("dst", "bytes", "packets", "reordered", "retransmitted")
        about = {"flow": int(flow["id"]), **{name: int(flow[name]) for name in counts}}
        yield {**common, "ph": "b", "ts": int(flow["start_ps"]) / 1e6, "args": about}
        yield {**common, "ph": "e", "ts": int(flow["end_ps"]) / 1e6}


def _queues(run: Run, pid: int) -> Iterator[Event]:
    """A counter in microseconds of service; intervals that change nothing are left out."""
    longest: Sequence[int] = [*run.queues.max_queue_ps.tolist(), 0]
    before = 0
    for interval, queue in enumerate(longest):
        if queue != before:
            ts = interval * run.queues.width_ps / 1e6
            yield {"name": "longest queue", "ph": "C", "pid": pid, "ts": ts, "args": {"microseconds": queue / 1e6}}
        before = queue


def _named(what: str, pid: int, tid: int, name: str, key: str = "name") -> Event:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {key: name}}
