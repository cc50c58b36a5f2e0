"""What happens next in the flow-level engine: events of many tasks or flows at once, and tasks that wait for others."""

from enum import Enum
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np

from netsim.workload.tasks import TaskColumns


class Due(Enum):
    """Kinds of events."""

    ARRIVAL = "the last bytes of flows arrive"
    BEGINNING = "the delay of tasks is over"
    START = "delayed flows start"
    CHANGE = "links, or what the routing knows of them, change"


class Calendar:
    """Pending events, in order of time and, within an instant, in the order in which they were added."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, Due, np.ndarray]] = []
        self._noted = 0

    def note(self, what: Due, indices: np.ndarray, times_ps: np.ndarray) -> None:
        """Adds an event for each of some tasks or flows, each at its own time."""
        if len(times_ps) > 1:
            order = np.argsort(times_ps, kind="stable")
            times_ps, indices = times_ps[order], indices[order]
        begins = [0, *(np.flatnonzero(times_ps[1:] != times_ps[:-1]) + 1).tolist(), len(times_ps)]
        for begin, end in pairwise(begins):
            if begin < end:
                heappush(self._entries, (int(times_ps[begin]), self._noted, what, indices[begin:end]))
                self._noted += 1

    def next_ps(self) -> int | None:
        """Time of the next event, None if there is none."""
        return self._entries[0][0] if self._entries else None

    def take(self, now_ps: int) -> tuple[Due, np.ndarray] | None:
        """Takes the next event that is due by now, None if there is none."""
        if not self._entries or self._entries[0][0] > now_ps:
            return None
        _, _, what, indices = heappop(self._entries)
        return what, indices


_DONE = -1
"""Count of a task that is done."""


class Dependencies:
    """Counts for each task how many of the tasks it waits for are not done yet."""

    def __init__(self, tasks: TaskColumns) -> None:
        self._waits_for = np.diff(tasks.after_begin)
        self.roots = np.flatnonzero(self._waits_for == 0)
        self.undone = len(self._waits_for)
        waiting = np.repeat(np.arange(self.undone), self._waits_for)
        self._successors = waiting[np.argsort(tasks.after, kind="stable")]
        counts = np.bincount(tasks.after, minlength=self.undone)
        self._begin = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])

    def done(self, tasks: np.ndarray) -> np.ndarray:
        """Notes that tasks are done and returns those that no longer wait for anything, ascending."""
        self.undone -= len(tasks)
        self._waits_for[tasks] = _DONE
        begin, following = self._begin[tasks], self._begin[tasks + 1] - self._begin[tasks]
        if not following.any():
            return np.zeros(0, dtype=np.int64)
        rows = np.arange(following.sum()) + np.repeat(begin - (np.cumsum(following) - following), following)
        successors = self._successors[rows]
        np.subtract.at(self._waits_for, successors, 1)
        return np.unique(successors[self._waits_for[successors] == 0])

    def first_waiting(self) -> int:
        """The first task that is not done although it waits for no other."""
        return int(np.flatnonzero(self._waits_for == 0)[0])
