"""What switches hold: shared memory with dynamic thresholds, and pauses of the links that fill it."""

from collections.abc import Callable

from netsim.engine.buffers import limits_of
from netsim.engine.protocol import Scene
from netsim.topology.keys import MILLION


class Buffers:
    """The memory of all switches. Queue link * classes + class holds the packets of a class in front of a link.

    A packet counts from its arrival at the switch until its last bit has left. With pauses a switch also counts them by
    the queue from which they came, and stops or resumes that queue by `tell`.
    """

    def __init__(self, scene: Scene, tell: Callable[[int], None]) -> None:
        self._classes, self._tell = scene.classes, tell
        limits = limits_of(scene)
        self._switch, self._pool, self._headroom = limits.source, limits.pool, limits.headroom
        self._pauses, self._shared = scene.flow_control.kind == "pfc", scene.buffer is not None
        control = scene.flow_control
        if control.kind == "pfc":
            self._dynamic, self._resume_at, self._gap = control.dynamic, control.resume_at, control.resume_below
            self._pause_above = 0 if control.pause_above == "dynamic" else control.pause_above
        if scene.buffer is not None:
            self._size, self._alpha = scene.buffer.size, scene.buffer.millionths
        queues = len(scene.topology.links) * scene.classes
        self.used = [0] * (max(limits.source) + 1)
        self.lengths = [0] * queues
        self.held = [0] * queues
        self.told_to_stop = [False] * queues

    def takes(self, size_bytes: int, source: int, queue: int) -> bool:
        """Takes a packet into a switch if there is room; may pause the queue that it came from."""
        switch = self._switch[queue // self._classes]
        if not self._has_room(size_bytes, source, queue, switch):
            return False
        self.used[switch] += size_bytes
        self.lengths[queue] += size_bytes
        self.held[source] += size_bytes
        if self._pauses and not self.told_to_stop[source] and self._fills(source, switch):
            self.told_to_stop[source] = True
            self._tell(source)
        return True

    def gives_back(self, size_bytes: int, source: int, queue: int) -> None:
        """Frees the memory of a packet that has left or is lost; may resume the queue that it came from."""
        switch = self._switch[queue // self._classes]
        self.used[switch] -= size_bytes
        self.lengths[queue] -= size_bytes
        self.held[source] -= size_bytes
        if self.told_to_stop[source] and self._may_resume(source, switch):
            self.told_to_stop[source] = False
            self._tell(source)

    def _has_room(self, size_bytes: int, source: int, queue: int, switch: int) -> bool:
        if self._shared and self.used[switch] + size_bytes > self._size:
            return False
        if not self._pauses:
            free = self._size - self.used[switch] if self._shared else 0
            return not self._shared or self.lengths[queue] * MILLION < self._alpha * free
        if self._dynamic:
            return True
        return self.held[source] + size_bytes <= self._pause_above + self._headroom[source // self._classes]

    def _threshold(self, switch: int) -> int:
        """Millionths of a byte that a switch may hold from one queue before it pauses that queue."""
        if self._dynamic:
            return self._alpha * max(0, self._pool[switch] - self.used[switch])
        return self._pause_above * MILLION

    def _fills(self, source: int, switch: int) -> bool:
        return self.held[source] * MILLION > self._threshold(switch)

    def _may_resume(self, source: int, switch: int) -> bool:
        if self._dynamic:
            return self.held[source] * MILLION <= max(0, self._threshold(switch) - self._gap * MILLION)
        return self.held[source] <= self._resume_at
