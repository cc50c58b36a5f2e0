"""Dependencies between tasks, for many tasks at once: `netsim.engine.frontier` in columns."""

import numpy as np

from netsim.workload.tasks import TaskColumns

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
