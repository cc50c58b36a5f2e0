"""Events of the flow-level engine, each for many tasks or flows at once."""

from enum import Enum
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np


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
