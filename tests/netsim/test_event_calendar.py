"""The calendar of the event engine against Python's heap."""

import heapq
from random import Random

import numpy as np

from netsim.engine import _core
from netsim.engine.core.arrays import heap, longer_heap
from tests.each import each

TAKE, PUSH, REPLACE = range(3)


@each("seed", range(8))
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
    found = np.zeros(len(taken), dtype=np.int64)
    _core.play_heap(calendar, np.array(moves, dtype=np.int64), found)
    assert found.tolist() == taken
