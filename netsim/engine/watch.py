"""Recordings over time on request: bytes on each link, and windows of chosen flows; equal in every engine."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import BeforeValidator, Field

from netsim.foundation.settings import Section
from netsim.workload.tasks import TaskColumns

MOST_FLOWS = 64
"""Most messages between chosen ranks whose first flow is recorded, in the workload's order."""
MOST_SAMPLES = 1024
"""Most samples of a flow. Whenever there are as many, every other one is dropped and the interval is doubled."""
SAMPLE = np.dtype([(name, np.int64) for name in ("time_ps", "window", "in_flight", "round_trip_ps")])
"""State of a flow when an acknowledgement has arrived: window and packets in flight, both in packets; the round trip of
the packet that was acknowledged."""

Rank = Annotated[int, Field(ge=0, strict=True)]


def _pair(value: object) -> object:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{value!r} is not a pair of ranks; write the sender and the receiver, such as [0, 5]")
    return value


Pair = Annotated[tuple[Rank, Rank], BeforeValidator(_pair)]


class WatchConfig(Section):
    """Section ``watch``: what is recorded over time, for pictures and tables.

    Args:
        links: Whether the bytes of data packets on each link are recorded.
        flows: Pairs of ranks, sender first. Windows and round trips are recorded of the first flow of each message
            between them.
    """

    links: bool = True
    flows: tuple[Pair, ...] = ()


class Watched(NamedTuple):
    """The recorded bytes of links and samples of flows."""

    width_ps: int  # length of an interval; a power of two
    # [link, interval] data packets, headers included, whose last bit left in the interval; no rows if links are not
    # watched
    bytes: np.ndarray
    tasks: Sequence[int]  # messages whose first flow is recorded
    samples: Sequence[np.ndarray]  # for each of them an array of `SAMPLE`, by time

    def equals(self, other: "Watched") -> bool:
        """Whether two recordings are equal to the last bit."""
        alike = all(np.array_equal(mine, others) for mine, others in zip(self.samples, other.samples, strict=False))
        same = (self.width_ps, *self.tasks) == (other.width_ps, *other.tasks)
        return same and alike and np.array_equal(self.bytes, other.bytes)


def watched_tasks(config: WatchConfig, columns: TaskColumns) -> list[int]:
    """The messages whose flows are recorded, in the order of the workload."""
    chosen = np.zeros(len(columns.src), dtype=bool)
    for src, dst in config.flows:
        chosen |= (columns.src == src) & (columns.dst == dst) & (columns.bytes > 0)
    return np.flatnonzero(chosen)[:MOST_FLOWS].tolist()
