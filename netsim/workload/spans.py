"""Collectives of a workload, and the traces that they come from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """A collective of `ranks` members, with the tasks that mark its begin and end. None where the workload does not
    say.

    `bytes` is the payload of all its messages. `come` and `over` have for each member the tasks that end its arrival
    (empty if all arrive at time 0) and the collective at that member.
    """

    op: str
    group: str | None
    ranks: int
    step: int | None
    phase: str | None
    layer: int | None
    bytes: int
    come: Sequence[int]
    over: Sequence[int]

    def times(self, task_end_ps: Sequence[int] | np.ndarray) -> "Times":
        """Times of the collective in a run, from the end of each task."""
        over = [int(task_end_ps[task]) for task in self.over]
        come = [int(task_end_ps[task]) for task in self.come] or [0] * len(over)
        return Times(min(come), max(over), (sum(over) - sum(come)) // len(over))


class Times(NamedTuple):
    """Arrival of the first member, end at the last, and mean time of a member in between, rounded down."""

    start_ps: int
    end_ps: int
    member_ps: int


class TraceOrigin(NamedTuple):
    """Hash of a trace and, if it names that, of its run's configuration; replayed optimiser steps, ascending."""

    sha256: str
    config_sha256: str | None
    steps: tuple[int, ...]
