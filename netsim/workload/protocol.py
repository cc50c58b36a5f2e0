"""The protocol of workloads: each becomes a directed acyclic graph of tasks; and what their sections share."""

from collections.abc import Callable, Sequence
from typing import Protocol

from pydantic import Field

from netsim.collective.columns import MessageColumns
from netsim.collective.protocol import Message, Operation
from netsim.foundation.settings import Section
from netsim.workload.program import Program


class WorkloadSection(Section):
    """Base of every section ``workload``.

    Args:
        class: Traffic class of the workload's packets, one of `classes`; required if the scenario has classes.
    """

    traffic_class: str | None = Field(default=None, alias="class")


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
