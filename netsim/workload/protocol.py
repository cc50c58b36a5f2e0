"""The protocol of workloads: each becomes a directed acyclic graph of tasks."""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from netsim.collective.columns import MessageColumns, message_columns
from netsim.collective.protocol import Message, Operation

Schedules = Callable[[Operation, Sequence[int]], Sequence[Message] | MessageColumns]
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
        self._parts: tuple[Any, ...] = tuple(array("q") for _ in TaskColumns._fields)
        self._parts[4].append(0)
        self._columns: TaskColumns | None = None
        self._marks = [(0, 0, False)]
        self.keys: np.ndarray | None = None
        """[tasks] number of the task whose draws each task has; None: its own. See `netsim.workload.keys`."""
        for task in tasks:
            self.mark(task.traffic_class, task.background)
            self.append(*task[:5])

    def append(self, src: int, dst: int, size_bytes: int, delay_ps: int, after: Iterable[int]) -> int:
        """Adds a task and returns its index."""
        sources, receivers, sizes, delays, after_begin, awaited = self._growing()
        sources.append(src)
        receivers.append(dst)
        sizes.append(size_bytes)
        delays.append(delay_ps)
        awaited.extend(after)
        after_begin.append(len(awaited))
        return len(sources) - 1

    def extend(self, columns: TaskColumns) -> None:
        """Adds tasks as arrays; `after` counts all tasks, `after_begin` begins at 0."""
        parts = self._growing()
        shifted = columns.after_begin[1:] + len(parts[5])
        for part, column in zip(parts, columns._replace(after_begin=shifted), strict=True):
            part.frombytes(np.ascontiguousarray(column, dtype=np.int64).view(np.uint8).data)

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

    @property
    def in_foreground(self) -> "Tasks":
        """The tasks without those in the background, which no other task waits for."""
        if not any(mark[2] for mark in self._marks):
            return self
        kept = ~self.in_background
        columns, place = self.columns(), np.cumsum(kept) - 1
        waits_for = np.diff(columns.after_begin)
        after = place[columns.after[np.repeat(kept, waits_for)]]
        begin = np.concatenate([[0], np.cumsum(waits_for[kept])]).astype(np.int64)
        tasks = Tasks()
        parts = (columns.src[kept], columns.dst[kept], columns.bytes[kept], columns.delay_ps[kept], begin, after)
        tasks.extend(TaskColumns(*parts))
        return tasks

    def _marked(self) -> np.ndarray:
        """Number of tasks after each mark and before the next."""
        return np.diff([*(mark[0] for mark in self._marks), len(self)])

    def columns(self) -> TaskColumns:
        """All tasks as arrays, which must not be changed; made once, until a task is added."""
        if self._columns is None:
            self._columns = TaskColumns(*(np.frombuffer(part, dtype=np.int64) for part in self._parts))
        return self._columns

    def _growing(self) -> tuple[Any, ...]:
        """The columns, with room for more tasks; arrays that were handed out keep their memory."""
        if self._columns is not None:
            self._parts, self._columns = tuple(array("q", part.tobytes()) for part in self._columns), None
        return self._parts

    def __len__(self) -> int:
        return len(self._parts[0])

    def __getitem__(self, index: int) -> Task:  # type: ignore[override]
        src, dst, size, delay, begin, after = self._parts
        mark = self._marks[bisect_right(self._marks, index, key=lambda mark: mark[0]) - 1]
        awaited = tuple(after[begin[index] : begin[index + 1]])
        return Task(src[index], dst[index], size[index], delay[index], awaited, *mark[1:])

    def __iter__(self) -> Iterator[Task]:
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> tuple[TaskColumns, list[tuple[int, int, bool]], np.ndarray | None]:
        """Columns, marks and keys, so that processes can share the arrays' memory."""
        return self.columns(), self._marks, self.keys

    def __setstate__(self, state: tuple[TaskColumns, list[tuple[int, int, bool]], np.ndarray | None]) -> None:
        """The inverse of `__getstate__`."""
        columns, self._marks, self.keys = state
        self._columns, self._parts = columns, tuple(column.data for column in columns)

    def with_columns(self, columns: TaskColumns) -> "Tasks":
        """As many tasks with other arrays, which must not be changed, of the same classes and with the same draws."""
        tasks = Tasks.of_columns(columns)
        tasks._marks, tasks.keys = list(self._marks), self.keys
        return tasks

    def with_keys(self, keys: np.ndarray | None) -> "Tasks":
        """The same tasks, with the draws of other tasks; see `keys`."""
        tasks = self.with_columns(self.columns())
        tasks.keys = keys
        return tasks

    @classmethod
    def of_columns(cls, columns: TaskColumns) -> "Tasks":
        """Tasks that share the memory of arrays, which must not be changed."""
        tasks = cls()
        tasks._columns = columns
        tasks._parts = tuple(column.data for column in columns)
        return tasks


class Program:
    """The tasks of a scenario, in an order in which every task comes after those it waits for, and its collectives."""

    def __init__(self) -> None:
        self.tasks = Tasks()
        self.spans: list[Span] = []
        self.collectives: list[tuple[int, int]] = []
        """The first message of each collective, and the end of its last, among the tasks."""
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

    def carry_out(
        self, messages: Sequence[Message] | MessageColumns, ranks: Sequence[int], come: Sequence[int]
    ) -> list[int]:
        """Adds the messages of a collective.

        Args:
            messages: Its schedule.
            ranks: The scenario's rank of each member.
            come: For each member, the task whose end is its arrival; empty if all arrive at time 0.

        Returns:
            For each member, a task that ends when the member and all messages from it and to it have arrived.
        """
        columns, first, places = message_columns(messages), len(self.tasks), np.array(ranks, dtype=np.int64)
        arrivals = np.array(come, dtype=np.int64)
        after_begin, after = columns.after_begin, first + columns.after
        if len(arrivals):
            later, earlier = columns.places
            after = np.empty(len(columns.after) + len(columns), dtype=np.int64)
            after[later] = first + columns.after
            after[earlier] = arrivals[columns.src]
            after_begin = after_begin + np.arange(len(columns) + 1)
        delay_ps = np.broadcast_to(np.int64(0), len(columns)) if columns.delay_ps is None else columns.delay_ps
        src, dst = places[columns.src], places[columns.dst]
        self.tasks.extend(TaskColumns(src, dst, columns.bytes, delay_ps, after_begin, after))
        self.tasks.extend(_joined(columns, first, places, arrivals))
        self.collectives.append((first, first + len(columns)))
        return list(range(first + len(columns), len(self.tasks)))


def _joined(columns: MessageColumns, first: int, ranks: np.ndarray, come: np.ndarray) -> TaskColumns:
    """A task for each member of a collective that waits for its arrival and for all its messages."""
    counts, order = columns.of_members
    members, nothing = len(ranks), np.zeros(len(ranks), dtype=np.int64)
    waits_for = nothing.copy()
    waits_for[: len(counts)] = counts
    begin = np.concatenate([nothing[:1], np.cumsum(waits_for)])
    after = first + order
    if len(come):
        with_arrivals = np.empty(len(order) + members, dtype=np.int64)
        with_arrivals[np.arange(len(order)) + np.repeat(np.arange(1, members + 1), waits_for)] = after
        with_arrivals[begin[:-1] + np.arange(members)] = come
        after, begin = with_arrivals, begin + np.arange(members + 1)
    return TaskColumns(ranks, ranks, nothing, nothing, begin, after)


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
