"""What a workload becomes: a directed acyclic graph of tasks, whatever it was read from."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from netsim.collective.protocol import Message, Operation

Schedules = Callable[[Operation], list[Message]]
"""Turns an operation into messages, by the algorithm the scenario names for it."""


class Task(NamedTuple):
    """Waits for `after`, then `delay_ps`, then moves `bytes` from `src` to `dst`; it is done when they have arrived.

    A task without bytes is done as soon as its delay is over: gaps of computation, points in a rank's program.

    Args:
        src: Rank that sends.
        dst: Rank that receives.
        bytes: Payload.
        delay_ps: Picoseconds between the last of `after` and the start.
        after: Earlier tasks, by index.
    """

    src: int
    dst: int
    bytes: int
    delay_ps: int
    after: tuple[int, ...]


class Span(NamedTuple):
    """A collective, and the tasks between which it lies. None is what the workload does not know.

    Args:
        op: Operation; send is a send with its recv.
        group: Name of the process group.
        ranks: Number of members.
        step: Optimiser step.
        phase: forward, backward or optimizer.
        layer: Model block.
        bytes: Payload of all its messages.
        come: For each member, the task that is done when it comes; empty if all come at the beginning of time.
        over: For each member, the task that is done when the collective is over for it.
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

    def times(self, task_end_ps: Sequence[int]) -> "Times":
        """When it happened.

        Args:
            task_end_ps: When each task of the program was done.
        """
        over = [task_end_ps[task] for task in self.over]
        come = [task_end_ps[task] for task in self.come] or [0] * len(over)
        return Times(min(come), max(over), (sum(over) - sum(come)) // len(over))


class Times(NamedTuple):
    """When a collective happened, in picoseconds.

    Args:
        start_ps: When the first member came to it.
        end_ps: When it was over for the last member.
        member_ps: Time from coming to it to its being over, mean over the members, rounded down.
    """

    start_ps: int
    end_ps: int
    member_ps: int


class Program:
    """The tasks of a scenario, in an order in which every task comes after those it waits for, and its collectives."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.spans: list[Span] = []

    def wait(self, rank: int, after: Sequence[int], delay_ps: int = 0) -> int:
        """Adds a task that moves nothing and returns its index."""
        return self.move(rank, rank, 0, after, delay_ps)

    def move(self, src: int, dst: int, size_bytes: int, after: Sequence[int], delay_ps: int = 0) -> int:
        """Adds a task and returns its index."""
        self.tasks.append(Task(src, dst, size_bytes, delay_ps, tuple(after)))
        return len(self.tasks) - 1


class Workload(Protocol):
    """A source of tasks and collectives."""

    def size(self, available: int) -> int:
        """Number of ranks it needs, where `available` are there."""
        ...

    def extend(self, program: Program, ranks: Sequence[int], start_ps: int, schedules: Schedules) -> None:
        """Adds the workload's tasks and collectives to `program`.

        Args:
            program: Grows by this workload.
            ranks: Ranks of the scenario that take part; the workload's rank i is ranks[i].
            start_ps: Nothing happens earlier.
            schedules: The algorithm of each operation.
        """
        ...
