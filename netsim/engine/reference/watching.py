"""Recorders of what a scenario watches; see `netsim.engine.watch`."""

import numpy as np

from netsim.engine.queue_series import FIRST_WIDTH_PS, INTERVALS
from netsim.engine.watch import MOST_SAMPLES, SAMPLE


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
        """Records the state at an acknowledgement; see `SAMPLE`."""
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
