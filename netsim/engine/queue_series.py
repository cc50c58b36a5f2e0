"""Longest queue over time, in at most `INTERVALS` intervals whatever the run's length; the same in every engine."""

from typing import NamedTuple

import numpy as np

from netsim.engine.protocol import QueueSeries

INTERVALS = 256
FIRST_WIDTH_PS = 1 << 17
"""First length of an interval, about 131 ns; pairs of intervals are merged whenever a run outgrows them."""


class QueueRecorder:
    """Records queue lengths over time."""

    def __init__(self) -> None:
        self._longest = [0] * INTERVALS
        self._width_bits = FIRST_WIDTH_PS.bit_length() - 1
        self._used = 0

    def add(self, time_ps: int, queue_ps: int) -> None:
        """Records that a packet joined a queue, and the length of that queue."""
        interval = time_ps >> self._width_bits
        while interval >= INTERVALS:
            pairs = zip(self._longest[::2], self._longest[1::2], strict=True)
            self._longest = [max(pair) for pair in pairs] + [0] * (INTERVALS // 2)
            self._width_bits += 1
            self._used = (self._used + 1) // 2
            interval >>= 1
        if queue_ps > self._longest[interval]:
            self._longest[interval] = queue_ps
        if interval >= self._used:
            self._used = interval + 1

    def series(self) -> QueueSeries:
        """The recorded series, up to the last interval with a queue."""
        return QueueSeries(1 << self._width_bits, np.array(self._longest[: self._used], dtype=np.int64))


class Longest(NamedTuple):
    """Longest queue of each interval, as the compiled engines record it."""

    queue_ps: np.ndarray  # [INTERVALS] its length
    shape: np.ndarray  # binary logarithm of an interval's length in picoseconds; intervals in use


def no_queues() -> Longest:
    """A series without queues."""
    shape = np.array([FIRST_WIDTH_PS.bit_length() - 1, 0], dtype=np.int64)
    return Longest(np.zeros(INTERVALS, dtype=np.int64), shape)


def series_of(longest: Longest) -> QueueSeries:
    """The series that a compiled engine has recorded."""
    width_bits, used = longest.shape.tolist()
    return QueueSeries(1 << width_bits, longest.queue_ps[:used].copy())
