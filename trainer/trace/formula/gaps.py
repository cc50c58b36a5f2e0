"""The compute before each collective of a computed trace."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import fmean

from moe.collective_trace import CollectiveRecord

Gaps = Callable[[CollectiveRecord], int | None]
"""Compute before a record, ns; None if unknown."""


def constant_gaps(gap_ns: int) -> Gaps:
    """The same compute before every record.

    Args:
        gap_ns: compute, ns, 0 or more.
    """
    return lambda _record: gap_ns


def recorded_gaps(records: Iterable[CollectiveRecord]) -> Gaps:
    """The mean compute that a recording shows before records of the same phase, operation and layer.

    A layer that was not recorded takes the mean over all layers; what has no counterpart at all stays unknown.

    Args:
        records: of a recorded trace.
    """
    samples: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for record in records:
        if record.gap_ns is not None:
            samples[record.phase, record.op, record.layer].append(record.gap_ns)
            samples[record.phase, record.op].append(record.gap_ns)
    means = {key: round(fmean(values)) for key, values in samples.items()}
    return lambda record: means.get((record.phase, record.op, record.layer), means.get((record.phase, record.op)))
