"""Tasks: what a workload consists of, and many of them in little memory."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np


class Task(NamedTuple):
    """A task waits for `after`, then `delay_ps`, then moves `bytes` from `src` to `dst`; it ends when all have arrived.

    A task without bytes ends with its delay; it stands for a gap of computation or a point in a rank's program.
    """

    src: int  # rank that sends
    dst: int  # rank that receives
    bytes: int  # payload
    delay_ps: int  # picoseconds between the last of `after` and the start
    after: tuple[int, ...]  # earlier tasks, by index
    traffic_class: int = 0  # class of its packets; those with smaller numbers go first
    background: bool = False  # whether the run may end without it


class TaskColumns(NamedTuple):
    """Tasks as arrays; task i waits for after[after_begin[i]:after_begin[i + 1]].

    Ranks and tasks are int32 in the columns of `Tasks`, where they take half of all memory; all else is int64.
    """

    src: np.ndarray
    dst: np.ndarray
    bytes: np.ndarray
    delay_ps: np.ndarray
    after_begin: np.ndarray
    after: np.ndarray


_CODES = ("i", "i", "q", "q", "q", "i")
"""Types of the columns of `Tasks`, as `array` and numpy call them."""


class Tasks(Sequence[Task]):
    """Many tasks, stored as columns: a million of them, each waiting for four, take fifty megabytes."""

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        self._parts: tuple[Any, ...] = tuple(array(code) for code in _CODES)
        self._parts[4].append(0)
        self._columns: TaskColumns | None = None
        self._marks = [(0, 0, False)]
        self.keys: np.ndarray | None = None
        """[tasks] number of the task whose draws each task has; None: its own. See `netsim.workload.program`."""
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
            part.frombytes(np.ascontiguousarray(column, dtype=part.typecode).view(np.uint8).data)

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
        """All tasks but background tasks, for which no other task waits."""
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
        """Number of tasks between each mark and the next."""
        return np.diff([*(mark[0] for mark in self._marks), len(self)])

    def columns(self) -> TaskColumns:
        """All tasks as arrays, which must not be changed; made once, until a task is added."""
        if self._columns is None:
            self._columns = TaskColumns(*map(np.frombuffer, self._parts, _CODES))
        return self._columns

    def _growing(self) -> tuple[Any, ...]:
        """The columns, with room for more tasks; arrays that were handed out keep their memory."""
        if self._columns is not None:
            parts = zip(_CODES, self._columns, strict=True)
            self._parts, self._columns = tuple(array(code, part.tobytes()) for code, part in parts), None
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
        """Columns, marks and keys, so that processes can share the columns' memory."""
        return self.columns(), self._marks, self.keys

    def __setstate__(self, state: tuple[TaskColumns, list[tuple[int, int, bool]], np.ndarray | None]) -> None:
        """The inverse of `__getstate__`."""
        columns, self._marks, self.keys = state
        self._columns, self._parts = columns, tuple(column.data for column in columns)

    def with_columns(self, columns: TaskColumns) -> "Tasks":
        """Tasks with other arrays, which must not be changed, but of the same number and classes."""
        tasks = Tasks.of_columns(columns)
        tasks._marks, tasks.keys = list(self._marks), self.keys
        return tasks

    def with_keys(self, keys: np.ndarray | None) -> "Tasks":
        """The same tasks with new draw keys; None: each task has its own draws."""
        tasks = self.with_columns(self.columns())
        tasks.keys = keys
        return tasks

    @classmethod
    def of_columns(cls, columns: TaskColumns) -> "Tasks":
        """Tasks that share the memory of arrays of the types of `Tasks`, which must not be changed."""
        tasks = cls()
        tasks._columns = columns = TaskColumns(*map(np.ascontiguousarray, columns, _CODES))
        tasks._parts = tuple(column.data for column in columns)
        return tasks
