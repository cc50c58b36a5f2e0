"""Dependencies between tasks: which tasks may begin. Every engine needs this bookkeeping."""

from collections.abc import Sequence

from netsim.workload.tasks import Task


class Frontier:
    """Counts for each task how many of the tasks it waits for are not done yet; background counts as done."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.roots = [index for index, task in enumerate(tasks) if not task.after]
        self.background = [task.background for task in tasks]
        self.undone = len(tasks) - sum(self.background)
        self._done = bytearray(len(tasks))
        self._waits_for = [len(task.after) for task in tasks]
        self._successors: list[list[int]] = [[] for _ in tasks]
        for index, task in enumerate(tasks):
            for earlier in task.after:
                self._successors[earlier].append(index)

    def done(self, index: int) -> list[int]:
        """Notes that a task is done and returns those that no longer wait for anything."""
        self.undone -= not self.background[index]
        self._done[index] = 1
        ready = []
        for successor in self._successors[index]:
            self._waits_for[successor] -= 1
            if not self._waits_for[successor]:
                ready.append(successor)
        return ready

    def waiting(self) -> list[int]:
        """Tasks that are not done although they wait for no other, background traffic aside."""
        waiting = [index for index, waits in enumerate(self._waits_for) if not waits and not self._done[index]]
        return [index for index in waiting if not self.background[index]] or waiting
