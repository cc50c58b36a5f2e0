"""Summaries of runs: of each transport over its seeds, and of each kind of collective."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any, NamedTuple

from netsim.simulation.results import Results, Run


class TransportSummary(NamedTuple):
    """Means over all seeds of one transport; `completions_us` has one of each seed, `max_queue_bytes` is the maximum.

    `reordered_packets` arrived behind a later one of their flow. Switches kept only the header of trimmed packets.
    Marks come from long queues. `paused_us` is the time for which flow control stopped links, summed over the links.
    """

    name: str
    flow_level: bool
    completions_us: Sequence[float]
    bound_us: float
    max_queue_bytes: int
    packets: float
    reordered_packets: float
    dropped_packets: float
    trimmed_packets: float
    marked_packets: float
    retransmitted_packets: float
    paused_us: float
    flow_p50_us: float
    flow_p99_us: float

    @property
    def label(self) -> str:
        """Name of the transport, marked if it has no packets."""
        return f"{self.name} (flow level)" if self.flow_level else self.name

    @property
    def mean_us(self) -> float:
        """Mean completion time."""
        return sum(self.completions_us) / len(self.completions_us)

    @property
    def over_bound(self) -> float:
        """Mean completion time over the bound, 1 if there is nothing to do."""
        return self.mean_us / self.bound_us if self.bound_us else 1.0

    @property
    def above_bound(self) -> float:
        """Mean completion time over the bound, less one."""
        return self.over_bound - 1


class CollectivesSummary(NamedTuple):
    """All collectives of an operation or a phase: number and payload of a run, times for each transport and seed."""

    name: str
    collectives: int
    payload_bytes: int
    times_us: Mapping[str, Sequence[float]]

    def mean_us(self, transport: str) -> float:
        """Mean time over the seeds of a transport."""
        return sum(self.times_us[transport]) / len(self.times_us[transport])

    def above(self, transport: str, other: str) -> float:
        """Mean time of a transport over that of another, less one."""
        return self.mean_us(transport) / self.mean_us(other) - 1 if self.mean_us(other) else 0.0


@lru_cache(maxsize=1)
def summarise(results: Results) -> tuple[TransportSummary, ...]:
    """One summary a transport, in the order of the scenario."""
    entries = {name: [run.to_dict(results.links) for run in seeds] for name, seeds in by_transport(results).items()}
    return tuple(summary_of(name, seeds) for name, seeds in entries.items())


def summary_of(name: str, seeds: Sequence[Mapping[str, Any]]) -> TransportSummary:
    """The summary of a transport from its runs as results.json holds them."""

    def mean(key: str) -> float:
        return fmean(run[key] for run in seeds)

    return TransportSummary(
        name=name,
        flow_level=seeds[0]["engine"] == "fluid",
        completions_us=[run["completion_ns"] / 1000 for run in seeds],
        bound_us=mean("bound_ns") / 1000,
        max_queue_bytes=max(run["max_queue_bytes"] for run in seeds),
        packets=mean("packets"),
        reordered_packets=mean("reordered_packets"),
        dropped_packets=mean("dropped_packets"),
        trimmed_packets=mean("trimmed_packets"),
        marked_packets=mean("marked_packets"),
        retransmitted_packets=mean("retransmitted_packets"),
        paused_us=mean("paused_ns") / 1000,
        flow_p50_us=fmean(run["fct_ns"]["p50"] for run in seeds) / 1000,
        flow_p99_us=fmean(run["fct_ns"]["p99"] for run in seeds) / 1000,
    )


def by_transport(results: Results) -> dict[str, list[Run]]:
    """The runs of each transport, a run a seed."""
    runs: dict[str, list[Run]] = {}
    for run in results.runs:
        runs.setdefault(run.transport, []).append(run)
    return runs


def operations(results: Results) -> list[CollectivesSummary]:
    """One summary an operation, the one that takes longest first; none unless there are several collectives.

    The time is that between a rank's arrival at a collective and its end at that rank, mean over the ranks. The times
    of all operations add up to the run, except for computation and for collectives that overlap.
    """
    if len(results.spans) < 2:
        return []
    members: dict[str, list[int]] = defaultdict(list)
    for index, span in enumerate(results.spans):
        members[span.op].append(index)
    summaries = [_operation(results, op, indices) for op, indices in members.items()]
    return sorted(summaries, key=lambda summary: -sum(map(sum, summary.times_us.values())))


def extremes(summaries: Sequence[TransportSummary]) -> tuple[TransportSummary, TransportSummary]:
    """The fastest and the slowest transport, among those with packets if there are any."""
    among = [summary for summary in summaries if not summary.flow_level] or summaries
    return min(among, key=lambda summary: summary.mean_us), max(among, key=lambda summary: summary.mean_us)


def differ(summaries: Sequence[TransportSummary]) -> bool:
    """Whether the fastest and the slowest transport lie more than half a percent apart."""
    fastest, slowest = extremes(summaries)
    return slowest.mean_us > 1.005 * fastest.mean_us


def extreme_runs(results: Results) -> list[Run]:
    """The first seeds of the fastest and of the slowest transport, or of any if they do not differ."""
    fastest, slowest = extremes(summarise(results))
    names = dict.fromkeys((fastest.name, slowest.name) if differ(summarise(results)) else (fastest.name,))
    first = {run.transport: run for run in results.first_runs()}
    return [first[name] for name in names]


def _operation(results: Results, op: str, indices: Sequence[int]) -> CollectivesSummary:
    times: dict[str, list[float]] = defaultdict(list)
    ranks = max(span.ranks for span in results.spans)
    for run in results.runs:
        total_ps = sum(run.collectives[index].member_ps * results.spans[index].ranks for index in indices)
        times[run.transport].append(total_ps / ranks / 1e6)
    return CollectivesSummary(op, len(indices), sum(results.spans[index].bytes for index in indices), times)
