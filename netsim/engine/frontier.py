"""Dependencies between tasks: which tasks may begin, and the error of a run in which some never end."""

from collections.abc import Sequence

from netsim.engine.protocol import Scene
from netsim.foundation.refusal import Refusal
from netsim.topology.protocol import Path
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


def is_cut_off(scene: Scene, paths: Sequence[Path], taken: Sequence[int], now_ps: int) -> bool:
    """Whether the `taken` of a flow's paths stay down and the routing's knowledge no longer changes: it would try
    forever.
    """
    if now_ps < scene.routes.times[-1]:
        return False

    def dead(link: int) -> bool:
        time, rate = scene.rates.changes.get(link, [(0, 1)])[-1]
        return not rate and time <= now_ps

    return all(any(map(dead, paths[index])) for index in taken)


def stalled(scene: Scene, waiting: list[int]) -> Refusal:
    """The error for tasks that have begun, wait for no other task, and never end."""
    first = scene.tasks[waiting[0]]
    problem = f"{len(waiting)} messages never arrive, among them one of {first.bytes} B from rank {first.src} to rank"
    if scene.flow_control.kind == "pfc":
        remedy = "links pause each other in a circle: change the topology or raise flow_control.pause_above"
        return Refusal("scenario", "flow_control", f"{problem} {first.dst}", remedy)
    if scene.recovery.kind != "none":
        remedy = "all links they would take are down for good: give the failure an until, or take another transport"
        return Refusal("scenario", "topology.failures", f"{problem} {first.dst}", remedy)
    remedy = "packets were lost for good: set recovery.kind to go_back_n or selective"
    return Refusal("scenario", "recovery", f"{problem} {first.dst}", remedy)
