"""Rounds of a run whose packets are trimmed: it ends when as many in a row as its limits allow bear no fruit."""

from netsim.engine.limits import NO_LIMIT
from netsim.engine.protocol import Scene

NOBODY = 2**62


class Rounds:
    """Whether a run gets anywhere; one round without end unless packets may be trimmed.

    A packet that is refused is sent again at once, and its timer never runs out. If headers and answers fill the links,
    no packet gets through any more, and only this ends the run. Rounds are as long as the first timeout, and follow
    each other from the beginning. One is fruitless if packets are refused in it, and none is newly acknowledged; one in
    which neither happens neither counts nor ends a row. Background traffic makes no difference.
    """

    def __init__(self, scene: Scene) -> None:
        self._lasts_ps = scene.recovery.first_ps if scene.flow_control.kind == "trim" else NO_LIMIT
        self._most, self._in_background = scene.limits.fruitless, scene.tasks.in_background
        self._progress = False
        self._in_a_row = 0
        self.refused = NOBODY
        """The first task whose packets were refused in this round, or `NOBODY`."""
        self.end_ps = self._lasts_ps - 1
        """The last moment of this round."""

    def note(self, task: int, progress: bool) -> None:
        """A packet of a task is refused, or newly acknowledged."""
        if self._in_background[task]:
            return
        if progress:
            self._progress = True
        else:
            self.refused = min(self.refused, task)

    def next(self, now_ps: int) -> bool:
        """Ends the round, and begins that of a later moment; False if the row is now as long as it may be."""
        if self._progress:
            self._in_a_row = 0
        elif self.refused < NOBODY:
            self._in_a_row += 1
        if self._in_a_row >= self._most:
            return False
        self._progress, self.refused = False, NOBODY
        self.end_ps = (now_ps // self._lasts_ps + 1) * self._lasts_ps - 1
        return True
