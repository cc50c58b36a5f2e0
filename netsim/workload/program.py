"""The program of a scenario: its tasks and collectives, to which every workload adds its own; and which draw alike."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from netsim.collective.columns import MessageColumns, message_columns
from netsim.collective.protocol import Message
from netsim.workload.device_table import Computed
from netsim.workload.tasks import TaskColumns, Tasks


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
    """Hash of a trace and, if the trace names it, of its run's configuration; replayed optimiser steps, ascending."""

    sha256: str
    config_sha256: str | None
    steps: tuple[int, ...]


class Program:
    """The tasks of a scenario, in an order in which every task comes after those it waits for, and its collectives."""

    def __init__(self) -> None:
        self.tasks = Tasks()
        self.spans: list[Span] = []
        self.collectives: list[tuple[int, int]] = []
        """The first message of each collective, and the end of its last message, as task indices."""
        self.recorded_ps: dict[int, int] = {}
        """Duration of each optimiser step in the recorded run, from the begin of its first collective; else empty."""
        self.traces: list[TraceOrigin] = []
        """The traces among the workloads, in the order of the jobs."""
        self.computed: list[Computed] = []
        """Computation times from a device's measurements."""

    def wait(self, rank: int, after: Sequence[int], delay_ps: int = 0) -> int:
        """Adds a task that moves nothing and returns its index."""
        return self.move(rank, rank, 0, after, delay_ps)

    def move(self, src: int, dst: int, size_bytes: int, after: Sequence[int], delay_ps: int = 0) -> int:
        """Adds a task that moves a message from `src` to `dst` and returns its index."""
        return self.tasks.append(src, dst, size_bytes, delay_ps, after)

    def arrive(self, ranks: np.ndarray, after: Sequence[np.ndarray], delay_ps: int) -> np.ndarray:
        """Adds a task for each rank, which waits for its task in each of `after`; returns their indices."""
        first, count, nothing = len(self.tasks), len(ranks), np.zeros(len(ranks), dtype=np.int64)
        begin = np.arange(count + 1) * len(after)
        self.tasks.extend(
            TaskColumns(ranks, ranks, nothing, nothing + delay_ps, begin, np.stack(after, axis=1).ravel())
        )
        return np.arange(first, first + count)

    def carry_out(
        self,
        messages: Sequence[Message] | MessageColumns,
        ranks: Sequence[int] | np.ndarray,
        come: Sequence[int] | np.ndarray,
        sets: int = 1,
    ) -> range:
        """Adds the messages of a collective, or of several at once.

        Args:
            messages: Its schedule.
            ranks: The scenario's rank of each member.
            come: For each member, the task whose end is its arrival; empty if all arrive at time 0.
            sets: Collectives of the schedule (`MessageColumns.repeated`).

        Returns:
            For each member, a task that ends when the member and all messages from it and to it have arrived.
        """
        columns, first, places = message_columns(messages), len(self.tasks), np.array(ranks, dtype=np.int32)
        arrivals = np.array(come, dtype=np.int32)
        after_begin, after = columns.after_begin, first + columns.after
        if len(arrivals):
            later, earlier = columns.shape.places
            after = np.empty(len(columns.after) + len(columns), dtype=np.int32)
            after[later] = first + columns.after
            after[earlier] = arrivals[columns.src]
            after_begin = after_begin + np.arange(len(columns) + 1)
        delay_ps = np.zeros(len(columns), dtype=np.int64) if columns.delay_ps is None else columns.delay_ps
        src, dst = places[columns.src], places[columns.dst]
        self.tasks.extend(TaskColumns(src, dst, columns.bytes, delay_ps, after_begin, after))
        self.tasks.extend(_joined(columns, first, places, arrivals))
        each = len(columns) // sets
        self.collectives += [(first + number * each, first + (number + 1) * each) for number in range(sets)]
        return range(first + len(columns), len(self.tasks))


def _joined(columns: MessageColumns, first: int, ranks: np.ndarray, come: np.ndarray) -> TaskColumns:
    """A task for each member of a collective that waits for its arrival and for all its messages."""
    counts, order = columns.shape.of_members
    members, nothing = len(ranks), np.zeros(len(ranks), dtype=np.int64)
    waits_for = nothing.copy()
    waits_for[: len(counts)] = counts
    begin = np.concatenate([nothing[:1], np.cumsum(waits_for)])
    after = first + order
    if len(come):
        with_arrivals = np.empty(len(order) + members, dtype=np.int32)
        with_arrivals[np.arange(len(order)) + np.repeat(np.arange(1, members + 1), waits_for)] = after
        with_arrivals[begin[:-1] + np.arange(members)] = come
        after, begin = with_arrivals, begin + np.arange(members + 1)
    return TaskColumns(ranks, ranks, nothing, nothing, begin, after)


def keys_of(columns: TaskColumns, collectives: Iterable[tuple[int, int]]) -> np.ndarray | None:
    """[tasks] the task whose draws each task has: that at its place of the first equal collective; None if all differ.

    Collectives (first message, end of the last) are equal if they move the same bytes between the same ranks in the
    same order. A task outside of collectives has its own draws.
    """
    keys, first_of = np.arange(len(columns.bytes), dtype=np.int64), dict[bytes, int]()
    again = False
    for begin, end in collectives:
        digest = sha256()
        for column in (columns.src, columns.dst, columns.bytes):
            digest.update(np.ascontiguousarray(column[begin:end]).data)
        first = first_of.setdefault(digest.digest(), begin)
        if first < begin < end:
            keys[begin:end] = np.arange(first, first + end - begin)
            again = True
    return keys if again else None


def reversed_needs(needs: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each place the places that need it; `needs` has those that each place needs."""
    needed_by: list[list[int]] = [[] for _ in needs]
    for place, needed in enumerate(needs):
        for earlier in needed:
            needed_by[earlier].append(place)
    return needed_by


def in_order(needs: Sequence[Sequence[int]]) -> tuple[list[int], int | None]:
    """Places, each behind all that it needs, in the order of getting ready; and the first in a circle or behind one."""
    missing, needed_by = [len(needed) for needed in needs], reversed_needs(needs)
    order = [place for place, number in enumerate(missing) if not number]
    for place in order:
        for later in needed_by[place]:
            missing[later] -= 1
            if not missing[later]:
                order.append(later)
    return order, next((place for place, number in enumerate(missing) if number), None)
