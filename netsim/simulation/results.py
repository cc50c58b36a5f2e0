"""Results of a comparison: results.json and three tables, the same bytes for the same scenario except `wall_s`.

Small runs take simpy until their engine is compiled; `engine`, `skipped_messages` and `skipped_bytes` differ then too.

Each table begins with a line of column names; `transport` and `seed` say which run a row belongs to. Sizes are bytes,
times nanoseconds with three decimals from the beginning of the run.

links.csv: for each link the bytes, the busy time, the longest queue, and the time paused by flow control.
flows.csv: each flow; `message` is the task it is a part of, its payload went from rank `src` to rank `dst`. Beyond
`PLAIN_FLOWS` rows it is flows.csv.gz, a fifth of the size, which the readers of tables take as it is.
collectives.csv: each collective, in the order of the workload: its operation (send: a send with its recv), group and
number of ranks, its step, phase and layer, the payload of all its messages, the arrival of its first rank and the end
at its last; `member_ns` is the time from a rank's arrival to the end at that rank, mean over its ranks. A cell is
empty where the workload does not say.

Where a scenario watches links and flows: links_over_time.csv, the bytes of data packets on each link in each interval
in which there are any; windows.csv, the state of the first flow of each watched message at its acknowledgements.
"""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from netsim.calibration.schedules import MeasuredCollectives
from netsim.engine.limits import Pulse
from netsim.engine.protocol import Outcome, Skipped
from netsim.foundation.files import unfinished, writing
from netsim.foundation.units import PICOSECONDS_PER_SECOND, to_ns
from netsim.simulation.prepare import Prepared
from netsim.topology.protocol import Link
from netsim.workload.device_table import Computed
from netsim.workload.program import Span

FORMAT = "flowfabric.results/1"
PLAIN_FLOWS = 100_000
"""Most rows of flows.csv, about ten megabytes; more of them are compressed."""
_OUTSIDE_HASH = ("wall_s", "engine", "certified_allocations", "skipped_messages", "skipped_bytes", "sha256")


class Run:
    """The run of one transport with one seed, reduced to the parts of outcome and spans that are written to files.

    Engine fluid is flow level; the bound holds for any packet-level run; `wall_s` includes preparation.
    """

    def __init__(
        self,
        transport: str,
        seed: int,
        engine: str,
        bound_ps: int,
        outcome: Outcome,
        spans: Sequence[Span],
        wall_s: float,
        skipped: Skipped | None = None,
    ) -> None:
        self.transport, self.seed, self.engine, self.wall_s = transport, seed, engine, wall_s
        self.skipped = skipped or Skipped()
        self.bound_ps, self.completion_ps = bound_ps, outcome.completion_ps
        self.packets, self.packet_hops = outcome.packets, outcome.packet_hops
        self.certified_allocations = outcome.certified_allocations
        self.control_hops, self.losses = outcome.control_hops, outcome.losses
        self.links, self.flows, self.queues = outcome.links, outcome.flows, outcome.queues
        self.watched = outcome.watched
        self.collectives = [span.times(outcome.task_end_ps) for span in spans]
        self.members = [_members(span, outcome.task_end_ps) for span in spans]

    def to_dict(self, links: Sequence[Link]) -> dict[str, Any]:
        """The run as results.json holds it; times in ns, sizes in bytes."""
        durations = self.flows["end_ps"] - self.flows["start_ps"]
        summary: dict[str, Any] = {
            "transport": self.transport,
            "seed": self.seed,
            "engine": self.engine,
            "completion_ns": to_ns(self.completion_ps),
            "bound_ns": to_ns(self.bound_ps),
            "flows": len(self.flows),
            "packets": self.packets,
            "packet_hops": self.packet_hops,
            "control_hops": self.control_hops,
            "max_link_bytes": int(self.links["bytes"].max()),
            "max_queue_bytes": max(self.queue_bytes(links)),
            "reordered_packets": int(self.flows["reordered"].sum()),
            "dropped_packets": self.losses.dropped,
            "trimmed_packets": self.losses.trimmed,
            "marked_packets": self.losses.marked,
            "retransmitted_packets": self.losses.retransmitted,
            "paused_ns": to_ns(int(self.links["paused_ps"].sum())),
            "fct_ns": {name: to_ns(value) for name, value in _quantiles(durations).items()},
            "certified_allocations": self.certified_allocations,
            "skipped_messages": self.skipped.messages,
            "skipped_bytes": self.skipped.bytes,
            "wall_s": round(self.wall_s, 3),
        }
        hashed = {key: value for key, value in summary.items() if key not in _OUTSIDE_HASH}
        canonical = json.dumps(hashed, sort_keys=True, separators=(",", ":"))
        return {**summary, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}

    def queue_bytes(self, links: Sequence[Link]) -> list[int]:
        """For each link its longest queue, including the unsent part of the packet in service."""
        queues = zip(self.links["max_queue_ps"].tolist(), links, strict=True)
        return [queue * link.rate_bps // (8 * PICOSECONDS_PER_SECOND) for queue, link in queues]


class RunEvent(NamedTuple):
    """Start or end of a run, or its state now and then, for progress displays.

    `run` is None before the end; `pulse` is None at the start and at the end.
    """

    transport: str
    seed: int
    runs: int
    run: Run | None
    pulse: Pulse | None = None


class Results:
    """All runs of a scenario.

    Args:
        scenario: The resolved scenario.
        prepared: Fabric, tasks and collectives of all runs, and the schedules of the collectives.
        runs: Transports in the scenario's order, each with its seeds in order.
        notices: Remarks for the user on how the workloads were read.
    """

    def __init__(
        self, scenario: dict[str, Any], prepared: Prepared, runs: Sequence[Run], notices: Sequence[str] = ()
    ) -> None:
        self.scenario, self.scene, self.runs, self.notices = scenario, prepared.scene, runs, notices
        laid_out = prepared.laid_out
        self.spans, self.recorded_ps, self.traces = laid_out.spans, laid_out.recorded_ps, laid_out.traces
        self.algorithms, self.measured, self.computed = laid_out.algorithms, laid_out.measured, laid_out.computed
        self.links = self.scene.topology.links

    def first_runs(self) -> list[Run]:
        """The first seed of each transport."""
        first: dict[str, Run] = {}
        for run in self.runs:
            first.setdefault(run.transport, run)
        return list(first.values())

    def to_dict(self) -> dict[str, Any]:
        """The content of results.json."""
        traces = {"traces": [{**trace._asdict(), "steps": list(trace.steps)} for trace in self.traces]}
        head = {"format": FORMAT, "scenario": self.scenario, **(traces if self.traces else {})}
        if self.algorithms:
            head["algorithms"] = [
                {**use._asdict(), "collectives": count} for use, count in sorted(self.algorithms.items())
            ]
        if self.measured:
            head["measured"] = [_measured(one) for one in self.measured]
        if self.computed:
            head["computed"] = [_computed(one) for one in self.computed]
        return {**head, "runs": [run.to_dict(self.links) for run in self.runs]}

    def write(self, folder: Path) -> None:
        """Writes results.json, links.csv, flows.csv and collectives.csv; each appears whole or not at all.

        Either flows.csv or flows.csv.gz is written; the other one, from an earlier run, is removed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "results.json") as file:
            json.dump(self.to_dict(), file, indent=1)
            file.write("\n")
        with replacing(folder / "links.csv") as file:
            file.write("transport,seed,link,bytes,busy_ns,max_queue_bytes,paused_ns\n")
            file.writelines(self._link_rows())
        names = "flows.csv", "flows.csv.gz"
        plain = sum(len(run.flows) for run in self.runs) <= PLAIN_FLOWS
        name, other = names if plain else names[::-1]
        with replacing(folder / name) as file:
            file.write("transport,seed,flow,message,src,dst,bytes,packets,start_ns,end_ns,")
            file.write("reordered_packets,retransmitted_packets\n")
            file.writelines(self._flow_rows())
        (folder / other).unlink(missing_ok=True)
        with replacing(folder / "collectives.csv") as file:
            file.write("transport,seed,collective,op,group,ranks,step,phase,layer,bytes,start_ns,end_ns,member_ns\n")
            csv.writer(file, lineterminator="\n").writerows(self._collective_rows())
        if any(run.watched is not None for run in self.runs):
            with replacing(folder / "links_over_time.csv") as file:
                file.write("transport,seed,link,from_ns,bytes\n")
                file.writelines(self._link_series())
            with replacing(folder / "windows.csv") as file:
                file.write("transport,seed,message,src,dst,time_ns,window_packets,in_flight_packets,round_trip_ns\n")
                file.writelines(self._window_series())

    def _link_rows(self) -> Iterator[str]:
        for run in self.runs:
            rows = zip(self.links, run.links.tolist(), run.queue_bytes(self.links), strict=True)
            for link, (size, busy, _, paused), queue in rows:
                times = f"{decimal_ns(busy)},{queue},{decimal_ns(paused)}"
                yield f"{run.transport},{run.seed},{link.name},{size},{times}\n"

    def _flow_rows(self) -> Iterable[str]:
        for run in self.runs:
            head = f"{run.transport},{run.seed},"
            for flow, task, src, dst, size, packets, start, end, *counts in run.flows.tolist():
                times = f"{decimal_ns(start)},{decimal_ns(end)}"
                yield f"{head}{flow},{task},{src},{dst},{size},{packets},{times},{counts[0]},{counts[1]}\n"

    def _link_series(self) -> Iterator[str]:
        for run in self.runs:
            if run.watched is not None:
                for link, interval in np.argwhere(run.watched.bytes).tolist():
                    begin, size = decimal_ns(interval * run.watched.width_ps), run.watched.bytes[link, interval]
                    yield f"{run.transport},{run.seed},{self.links[link].name},{begin},{size}\n"

    def _window_series(self) -> Iterator[str]:
        columns = self.scene.tasks.columns()
        for run in self.runs:
            if run.watched is not None:
                for task, samples in zip(run.watched.tasks, run.watched.samples, strict=True):
                    head = f"{run.transport},{run.seed},{task},{columns.src[task]},{columns.dst[task]}"
                    for time, window, in_flight, trip in samples.tolist():
                        yield f"{head},{decimal_ns(time)},{window},{in_flight},{decimal_ns(trip)}\n"

    def _collective_rows(self) -> Iterator[tuple[str | int | None, ...]]:
        for run in self.runs:
            for index, (span, times) in enumerate(zip(self.spans, run.collectives, strict=True)):
                about = (span.op, span.group, span.ranks, span.step, span.phase, span.layer, span.bytes)
                yield run.transport, run.seed, index, *about, *map(decimal_ns, times)


def decimal_ns(time_ps: int) -> str:
    """Picoseconds as nanoseconds with exactly three places."""
    whole, rest = divmod(time_ps, 1000)
    return f"{whole}.{rest:03d}"


class Pair(NamedTuple):
    """Simulations of a scenario and of its change, with their names; `said` is a sentence on their difference."""

    first: Results
    second: Results
    names: tuple[str, str]
    said: str


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Yields a text file that replaces `path` when the block ends without an error, and is removed otherwise.

    It is compressed if the name ends in .gz, to the same bytes for the same text.
    """
    with unfinished(path) as temporary:
        with writing(path), temporary.open("wb") as raw:
            packed = gzip.GzipFile("", "wb", 6, raw, mtime=0) if path.suffix == ".gz" else raw
            with packed, io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file:
                yield file
        temporary.replace(path)


def _members(span: Span, task_end_ps: np.ndarray) -> np.ndarray:
    """Arrival of each member at a collective and its end there, in picoseconds, [member, 2]."""
    over = task_end_ps[np.array(span.over, dtype=np.int64)]
    come = task_end_ps[np.array(span.come, dtype=np.int64)] if len(span.come) else np.zeros_like(over)
    return np.stack([come, over], axis=1)


def _measured(one: MeasuredCollectives) -> dict[str, Any]:
    """Entry of results.json on collectives of one size: their times, nominal and measured, in nanoseconds."""
    about = {key: getattr(one, key) for key in ("op", "ranks", "hosts", "bytes", "collectives")}
    nominal = None if one.nominal_ps is None else to_ns(one.nominal_ps)
    measured, low, high = (round(1000 * time_us) for time_us in one.predicted[:3])
    times = {"nominal_ns": nominal, "measured_ns": measured, "low_ns": low, "high_ns": high}
    return {**about, **times, "extrapolated": one.predicted.extrapolated}


def _computed(one: Computed) -> dict[str, Any]:
    """Entry of results.json on a product, attention or memory traffic of one size: its time and interval in ns."""
    bounds = {"time_ns": 1, "low_ns": 1 / one.error, "high_ns": one.error}
    times = {name: to_ns(round(one.time_ps * factor)) for name, factor in bounds.items()}
    return {"table": one.table, "kind": one.kind, "size": one.size, **times, "extrapolated": one.extrapolated}


def _quantiles(durations: np.ndarray) -> dict[str, int]:
    """Median, 99th percentile and maximum, each the duration of an actual flow; 0 without flows."""
    if not len(durations):
        return {"p50": 0, "p99": 0, "max": 0}
    p50, p99, largest = np.quantile(durations, [0.5, 0.99, 1.0], method="inverted_cdf")
    return {"p50": int(p50), "p99": int(p99), "max": int(largest)}
