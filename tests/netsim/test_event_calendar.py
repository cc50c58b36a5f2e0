"""The calendar of the event engine against Python's heap."""

import heapq
from random import Random

import numpy as np
import pytest
from numba import njit

from netsim.engine.event.calendar import close, heap, longer_heap, push, replace, take_first

TAKE, PUSH, REPLACE = range(3)


@njit
def _play(calendar: np.ndarray, moves: np.ndarray) -> list[int]:
    """Makes moves (kind, time, key, what) and returns what was first at each time something was taken."""
    taken = []
    for row in range(len(moves)):
        kind, time_ps, key, what = moves[row]
        if kind != PUSH:
            close(calendar)
            taken.append(calendar[1].what)
        if kind == TAKE:
            take_first(calendar)
        elif kind == REPLACE:
            replace(calendar, time_ps, key, what)
        else:
            push(calendar, time_ps, key, what)
    return taken


@pytest.mark.parametrize("seed", range(8))
def test_takes_what_python_takes(seed):
    """Few different times, so that many entries tie and their keys decide; what is taken is never later than before."""
    random = Random(seed)
    expected: list[tuple[int, int, int]] = []
    taken, moves = [], []
    for what in range(1500):
        kind = random.choice([PUSH, PUSH, TAKE, REPLACE]) if expected else PUSH
        now = expected[0][0] if expected else 0
        entry = now + random.randrange(5), random.randrange(2**62), what
        moves.append((kind, *entry))
        if kind == PUSH:
            heapq.heappush(expected, entry)
        else:
            taken.append(expected[0][2])
            if kind == REPLACE:
                heapq.heapreplace(expected, entry)
            else:
                heapq.heappop(expected)
    calendar = longer_heap(heap(4), 1500)
    assert _play(calendar, np.array(moves, dtype=np.int64)) == taken
