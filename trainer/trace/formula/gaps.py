"""The compute before each collective of a computed trace."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import fmean

from moe.collective_trace import ROLLOUT, CollectiveRecord

Gaps = Callable[[CollectiveRecord], int | None]
"""Compute before a record, ns; None if unknown."""


def constant_gaps(gap_ns: int) -> Gaps:
    """The same compute before every record, ns, 0 or more."""
    return lambda _record: gap_ns


def recorded_gaps(records: Iterable[CollectiveRecord]) -> Gaps:
    """The mean compute that a recording shows before records of the same phase, operation and layer.

    A layer that was not recorded takes the mean over all layers. Rollouts that were not recorded are forward passes of
    more states: before an exchange of tokens their compute is that of forward passes, in the ratio of the bytes. What
    has no counterpart at all stays unknown.
    """
    samples: dict[tuple[object, ...], list[int]] = defaultdict(list)
    sizes: dict[str, list[int]] = defaultdict(list)
    for record in records:
        if record.gap_ns is not None:
            samples[record.phase, record.op, record.layer].append(record.gap_ns)
            samples[record.phase, record.op].append(record.gap_ns)
        if record.phase == "forward" and record.op == "all_to_all":
            sizes[record.dtype].append(record.bytes_in)
    means = {key: round(fmean(values)) for key, values in samples.items()}
    mean_bytes = {dtype: fmean(values) for dtype, values in sizes.items() if any(values)}

    def mean(record: CollectiveRecord, phase: str) -> int | None:
        return means.get((phase, record.op, record.layer), means.get((phase, record.op)))

    def gap(record: CollectiveRecord) -> int | None:
        known = mean(record, record.phase)
        if known is not None or record.phase != ROLLOUT or record.op != "all_to_all":
            return known
        forward, usual = mean(record, "forward"), mean_bytes.get(record.dtype)
        return None if forward is None or usual is None else round(forward * record.bytes_in / usual)

    return gap
