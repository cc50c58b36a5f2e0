"""The cells of a sweep in a few numbers, for its page and its picture."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

SweepCell = tuple[Mapping[str, str], Mapping[str, Any]]
"""The values of a cell by dotted key, and the content of its results.json."""


_TIE = 0.005


class CellSummary(NamedTuple):
    """One transport in one cell over its seeds: means, but the longest queue with any seed, and completions one by one.

    `place` has the value of each axis; `over_bound` is mean completion over mean lower bound, 1 if there is nothing to
    do.
    """

    place: tuple[str, ...]
    transport: str
    flow_level: bool
    completions_us: Sequence[float]
    over_bound: float
    flow_p99_us: float
    max_queue_bytes: int
    dropped_packets: float

    @property
    def mean_us(self) -> float:
        """Mean completion time."""
        return fmean(self.completions_us)


class Sweep:
    def __init__(self, cells: Sequence[SweepCell]) -> None:
        changes = [dict(overrides) for overrides, _ in cells]
        keys = dict.fromkeys(key for change in changes for key in change)
        self.values = {key: list(dict.fromkeys(change.get(key, "-") for change in changes)) for key in keys}
        self.axes = [key for key in keys if len(self.values[key]) > 1]
        self.constant = {key: self.values[key][0] for key in keys if len(self.values[key]) == 1}
        self.places = [tuple(change.get(axis, "-") for axis in self.axes) for change in changes]
        rows = zip(self.places, (results["runs"] for _, results in cells), strict=True)
        self.summaries = [summary for place, runs in rows for summary in _summarise(place, runs)]
        self.transports = list(dict.fromkeys(summary.transport for summary in self.summaries))
        self.by_place = {(summary.place, summary.transport): summary for summary in self.summaries}

    def leaders(self, place: tuple[str, ...]) -> frozenset[str]:
        """The fastest transport of a cell and those within half a percent, with packets if there are any."""
        here = [self.by_place[place, name] for name in self.transports if (place, name) in self.by_place]
        among = [summary for summary in here if not summary.flow_level] or here
        least = min(summary.mean_us for summary in among)
        return frozenset(summary.transport for summary in among if summary.mean_us <= (1 + _TIE) * least)


def _summarise(place: tuple[str, ...], runs: Sequence[Mapping[str, Any]]) -> list[CellSummary]:
    seeds: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        seeds.setdefault(run["transport"], []).append(run)
    return [_summary(place, name, mine) for name, mine in seeds.items()]


def _summary(place: tuple[str, ...], name: str, seeds: Sequence[Mapping[str, Any]]) -> CellSummary:
    bound_ns = fmean(run["bound_ns"] for run in seeds)
    return CellSummary(
        place=place,
        transport=name,
        flow_level=seeds[0]["engine"] == "fluid",
        completions_us=[run["completion_ns"] / 1000 for run in seeds],
        over_bound=fmean(run["completion_ns"] for run in seeds) / bound_ns if bound_ns else 1.0,
        flow_p99_us=fmean(run["fct_ns"]["p99"] for run in seeds) / 1000,
        max_queue_bytes=max(run["max_queue_bytes"] for run in seeds),
        dropped_packets=fmean(run["dropped_packets"] for run in seeds),
    )
