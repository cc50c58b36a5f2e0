"""The protocol of workloads: each becomes a directed acyclic graph of tasks."""

from collections.abc import Callable, Sequence
from typing import Protocol

from netsim.collective.columns import MessageColumns
from netsim.collective.protocol import Message, Operation
from netsim.workload.program import Program

Schedules = Callable[[Operation, Sequence[int]], Sequence[Message] | MessageColumns]
"""Turns an operation, and the scenario's rank of each participant, into messages, by the algorithm named for it."""


class Workload(Protocol):
    """A source of tasks and collectives."""

    @property
    def notices(self) -> list[str]:
        """Remarks for the user on how the workload was read; complete after `extend`."""
        ...

    def size(self, available: int) -> int:
        """Number of ranks that it needs, given that `available` exist."""
        ...

    def extend(self, program: Program, ranks: Sequence[int], start_ps: int, schedules: Schedules) -> None:
        """Adds the workload's tasks and collectives to `program`.

        Args:
            program: Program to which they are added.
            ranks: Ranks of the scenario that take part; the workload's rank i is ranks[i].
            start_ps: Start of the workload.
            schedules: The algorithm of each operation.
        """
        ...
