"""The protocol of workloads: each becomes a directed acyclic graph of tasks."""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from netsim.collective.protocol import Message, Operation

Schedules = Callable[[Operation, Sequence[int]], list[Message]]
"""Turns an operation, and the scenario's rank of each participant, into messages, by the algorithm named for it."""


class Task(NamedTuple):
    """A task waits for `after`, then `delay_ps`, then moves `bytes` from `src` to `dst`; it ends when all have arrived.

    A task without bytes ends with its delay; it stands for a gap of computation or a point in a rank's program.

    Args:
        src: Rank that sends.
        dst: Rank that receives.
        bytes: Payload.
        delay_ps: Picoseconds between the last of `after` and the start.
        after: Earlier tasks, by index.
        traffic_class: Class of its packets; those with smaller numbers go first.
        background: Whether the run may end without it.
    """

    src: int
    dst: int
    bytes: int
    delay_ps: int
    after: tuple[int, ...]
    traffic_class: int = 0
    background: bool = False


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

    def times(self, task_end_ps: Sequence[int]) -> "Times":
        """Times of the collective in a run.

        Args:
            task_end_ps: When each task of the program was done.
        """
        over = [task_end_ps[task] for task in self.over]
        come = [task_end_ps[task] for task in self.come] or [0] * len(over)
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


class TaskColumns(NamedTuple):
    """Tasks as arrays of int64; task i waits for after[after_begin[i]:after_begin[i + 1]]."""

    src: np.ndarray
    dst: np.ndarray
    bytes: np.ndarray
    delay_ps: np.ndarray
    after_begin: np.ndarray
    after: np.ndarray


class Tasks(Sequence[Task]):
    """Many tasks, stored as columns: a million of them take fifty megabytes.

    Args:
        tasks: The first of them.
    """

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        self._src, self._dst, self._bytes, self._delay_ps = array("q"), array("q"), array("q"), array("q")
        self._after_begin, self._after = array("q", (0,)), array("q")
        self._marks = [(0, 0, False)]
        for task in tasks:
            self.mark(task.traffic_class, task.background)
            self.append(*task[:5])

    def append(self, src: int, dst: int, size_bytes: int, delay_ps: int, after: Iterable[int]) -> int:
        """Adds a task and returns its index."""
        self._src.append(src)
        self._dst.append(dst)
        self._bytes.append(size_bytes)
        self._delay_ps.append(delay_ps)
        self._after.extend(after)
        self._after_begin.append(len(self._after))
        return len(self._src) - 1

    def mark(self, traffic_class: int, background: bool = False) -> None:
        """Sets the class of the tasks that are added from now on, and whether the run may end without them."""
        if self._marks[-1][1:] != (traffic_class, background):
            self._marks.append((len(self), traffic_class, background))

    @property
    def traffic_classes(self) -> np.ndarray:
        """The class of each task, int8."""
        return np.repeat(np.array([mark[1] for mark in self._marks], dtype=np.int8), self._marked())

    @property
    def in_background(self) -> np.ndarray:
        """Of each task, whether the run may end without it."""
        return np.repeat(np.array([mark[2] for mark in self._marks], dtype=bool), self._marked())

    def _marked(self) -> np.ndarray:
        """Number of tasks after each mark and before the next."""
        return np.diff([*(mark[0] for mark in self._marks), len(self)])

    def columns(self) -> TaskColumns:
        """A copy of all tasks as arrays."""
        parts = (self._src, self._dst, self._bytes, self._delay_ps, self._after_begin, self._after)
        return TaskColumns(*(np.array(part, dtype=np.int64) for part in parts))

    def __len__(self) -> int:
        return len(self._src)

    def __getitem__(self, index: int) -> Task:  # type: ignore[override]
        after = tuple(self._after[self._after_begin[index] : self._after_begin[index + 1]])
        mark = self._marks[bisect_right(self._marks, index, key=lambda mark: mark[0]) - 1]
        return Task(self._src[index], self._dst[index], self._bytes[index], self._delay_ps[index], after, *mark[1:])

    def __iter__(self) -> Iterator[Task]:
        return (self[index] for index in range(len(self)))


class Program:
    """The tasks of a scenario, in an order in which every task comes after those it waits for, and its collectives."""

    def __init__(self) -> None:
        self.tasks = Tasks()
        self.spans: list[Span] = []
        self.recorded_ps: dict[int, int] = {}
        """Duration of each optimiser step in the recorded run, from the begin of its first collective; else empty."""
        self.traces: list[TraceOrigin] = []
        """The traces among the workloads, in the order of the jobs."""

    def wait(self, rank: int, after: Sequence[int], delay_ps: int = 0) -> int:
        """Adds a task that moves nothing and returns its index."""
        return self.move(rank, rank, 0, after, delay_ps)

    def move(self, src: int, dst: int, size_bytes: int, after: Sequence[int], delay_ps: int = 0) -> int:
        """Adds a task and returns its index."""
        return self.tasks.append(src, dst, size_bytes, delay_ps, after)

    def carry_out(self, messages: Sequence[Message], ranks: Sequence[int], come: Sequence[int]) -> list[int]:
        """Adds the messages of a collective.

        Args:
            messages: Its schedule.
            ranks: The scenario's rank of each member.
            come: For each member, the task whose end is its arrival; empty if all arrive at time 0.

        Returns:
            For each member, a task that ends when the member and all messages from it and to it have arrived.
        """
        first = len(self.tasks)
        awaited = [[task] for task in come] or [[] for _ in ranks]
        for message in messages:
            after = [*come[message.src : message.src + 1], *(first + earlier for earlier in message.after)]
            moved = self.move(ranks[message.src], ranks[message.dst], message.bytes, after)
            awaited[message.src].append(moved)
            awaited[message.dst].append(moved)
        return [self.wait(rank, tasks) for rank, tasks in zip(ranks, awaited, strict=True)]


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
