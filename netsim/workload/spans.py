"""Collectives of a workload, and the traces that they come from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """A collective, with the tasks that mark its begin and end. None where the workload does not say.

    Args:
        op: Operation; send is a send with its recv.
        group: Name of the process group.
        ranks: Number of members.
        step: Optimiser step.
        phase: rollout, forward, backward or optimizer.
        layer: Model block.
        bytes: Payload of all its messages.
        come: For each member, the task whose end is its arrival at the collective; empty if all arrive at time 0.
        over: For each member, the task whose end is the end of the collective at that member.
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
        """Times of the collective in a run.

        Args:
            task_end_ps: When each task of the program was done.
        """
        over = [int(task_end_ps[task]) for task in self.over]
        come = [int(task_end_ps[task]) for task in self.come] or [0] * len(over)
        return Times(min(come), max(over), (sum(over) - sum(come)) // len(over))


class Times(NamedTuple):
    """Times of a collective, in picoseconds.

    Args:
        start_ps: Arrival of the first member.
        end_ps: End at the last member.
        member_ps: Time from arrival to end of a member, mean over the members, rounded down.
    """

    start_ps: int
    end_ps: int
    member_ps: int


class TraceOrigin(NamedTuple):
    """Which trace a workload replays.

    Args:
        sha256: Of the file.
        config_sha256: Of the configuration of the traced run, if the trace names it.
        steps: Optimiser steps that are replayed, ascending.
    """

    sha256: str
    config_sha256: str | None
    steps: tuple[int, ...]
