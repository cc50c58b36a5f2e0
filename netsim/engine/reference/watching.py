"""Recorders of links and windows over time, and rounds, which end a run that only trims and resends packets."""

import numpy as np

from netsim.engine.limits import NO_LIMIT
from netsim.engine.protocol import Scene
from netsim.engine.queue_series import FIRST_WIDTH_PS, INTERVALS
from netsim.engine.watch import MOST_SAMPLES, SAMPLE

NOBODY = 2**62


class Rounds:
    """Detects a run without progress, by rounds of time; a single round without end unless packets may be trimmed.

    A packet that is refused is sent again at once, and its timer never runs out. If headers and answers fill the links,
    no packet gets through any more, and only this class ends the run. Rounds are as long as the first timeout, and
    follow each other from the beginning. A round is fruitless if packets are refused in it, and none is newly
    acknowledged. A round in which neither happens neither counts nor ends a row. Background traffic is ignored.
    """

    def __init__(self, scene: Scene) -> None:
        self._lasts_ps = scene.recovery.first_ps if scene.flow_control.kind == "trim" else NO_LIMIT
        self._most, self._in_background = scene.limits.fruitless, scene.tasks.in_background
        self._progress = False
        self._in_a_row = 0
        self.refused = NOBODY
        """The first task whose packets were refused in this round; `NOBODY` if none."""
        self.end_ps = self._lasts_ps - 1
        """The last moment of this round."""

    def note(self, task: int, progress: bool) -> None:
        """Notes that a packet of a task is refused or, with `progress`, newly acknowledged."""
        if self._in_background[task]:
            return
        if progress:
            self._progress = True
        else:
            self.refused = min(self.refused, task)

    def next(self, now_ps: int) -> bool:
        """Ends the round, and begins the one after `now_ps`; False after as many fruitless rounds as allowed."""
        if self._progress:
            self._in_a_row = 0
        elif self.refused < NOBODY:
            self._in_a_row += 1
        if self._in_a_row >= self._most:
            return False
        self._progress, self.refused = False, NOBODY
        self.end_ps = (now_ps // self._lasts_ps + 1) * self._lasts_ps - 1
        return True


class LinkRecorder:
    """Records bytes of each link over time in at most `INTERVALS` intervals, whatever the run's length."""

    def __init__(self, links: int) -> None:
        self._bytes = np.zeros((links, INTERVALS), dtype=np.int64)
        self._width_bits = FIRST_WIDTH_PS.bit_length() - 1
        self._used = 0

    def add(self, link: int, time_ps: int, size_bytes: int) -> None:
        """Records that the last bit of a packet leaves a link."""
        if not len(self._bytes):
            return
        while time_ps >> self._width_bits >= INTERVALS:
            self._bytes[:, : INTERVALS // 2] = self._bytes[:, ::2] + self._bytes[:, 1::2]
            self._bytes[:, INTERVALS // 2 :] = 0
            self._width_bits += 1
            self._used = (self._used + 1) // 2
        interval = time_ps >> self._width_bits
        self._bytes[link, interval] += size_bytes
        self._used = max(self._used, interval + 1)

    def series(self) -> tuple[int, np.ndarray]:
        """Length of an interval in picoseconds, and bytes by link and interval."""
        return 1 << self._width_bits, self._bytes[:, : self._used].copy()


class WindowRecorder:
    """Records a flow over time."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, int, int]] = []
        self._seen, self._stride = 0, 1

    def add(self, time_ps: int, window: int, in_flight: int, round_trip_ps: int) -> None:
        """Records the state at an acknowledgement, a `SAMPLE`."""
        if self._seen % self._stride == 0:
            if len(self._rows) == MOST_SAMPLES:
                self._rows = self._rows[::2]
                self._stride *= 2
            if self._seen % self._stride == 0:
                self._rows.append((time_ps, window, in_flight, round_trip_ps))
        self._seen += 1

    def samples(self) -> np.ndarray:
        """Array of `SAMPLE`."""
        return np.array(self._rows, dtype=SAMPLE)
