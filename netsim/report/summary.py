"""The runs of a transport in a few numbers, for the table, the page and the pictures."""

from collections.abc import Sequence
from typing import NamedTuple

from netsim.results import Results, Run, queue_bytes


class TransportSummary(NamedTuple):
    """All seeds of one transport.

    Args:
        name: Name of the transport.
        flow_level: It was simulated as flows, without packets and queues.
        completions_us: Completion time of each seed.
        bound_us: Mean lower bound.
        max_queue_bytes: Longest queue on any link with any seed.
        reordered_packets: Mean number of packets that arrived behind a later one of their flow.
        flow_p99_us: Mean over the seeds of the 99th percentile of flow completion times.
    """

    name: str
    flow_level: bool
    completions_us: Sequence[float]
    bound_us: float
    max_queue_bytes: int
    reordered_packets: float
    flow_p99_us: float

    @property
    def mean_us(self) -> float:
        """Mean completion time."""
        return sum(self.completions_us) / len(self.completions_us)

    @property
    def above_bound(self) -> float:
        """Mean completion time over the bound, less one."""
        return self.mean_us / self.bound_us - 1 if self.bound_us else 0.0


def summarise(results: Results) -> list[TransportSummary]:
    """One summary a transport, in the order of the scenario."""
    runs: dict[str, list[Run]] = {}
    for run in results.runs:
        runs.setdefault(run.transport, []).append(run)
    return [_summary(results, name, seeds) for name, seeds in runs.items()]


def extremes(summaries: Sequence[TransportSummary]) -> tuple[TransportSummary, TransportSummary]:
    """The fastest and the slowest transport, among those with packets if there are any."""
    among = [summary for summary in summaries if not summary.flow_level] or summaries
    return min(among, key=lambda summary: summary.mean_us), max(among, key=lambda summary: summary.mean_us)


def _summary(results: Results, name: str, seeds: Sequence[Run]) -> TransportSummary:
    count = len(seeds)
    details = [run.to_dict(results.links) for run in seeds]
    return TransportSummary(
        name=name,
        flow_level=seeds[0].engine == "fluid",
        completions_us=[run.completion_ps / 1e6 for run in seeds],
        bound_us=sum(run.bound_ps for run in seeds) / count / 1e6,
        max_queue_bytes=max(queue_bytes(*pair) for run in seeds for pair in zip(run.links, results.links, strict=True)),
        reordered_packets=sum(detail["reordered_packets"] for detail in details) / count,
        flow_p99_us=sum(detail["fct_ns"]["p99"] for detail in details) / count / 1000,
    )
