"""Heaps of events as arrays, which the core keeps in order (`calendar.hpp`).

Entry 0 of a heap is its header, whose time is the number of entries. Four entries that are never due follow the last
one. Those behind them are written as the heap grows, so that room for all that may ever happen takes no memory yet.
"""

import numpy as np

from netsim.engine.core.shared import record

END_PS = 2**62
"""The time of an event that never happens, later than all others."""
NEVER = 2**63 - 1


def heap(entries: int) -> np.ndarray:
    """An empty heap with room for so many entries."""
    fresh = np.zeros(entries + 5, dtype=record("Entry"))
    fresh["time_ps"][1:6] = fresh["key"][1:6] = NEVER
    return fresh


def longer_heap(heap_: np.ndarray, entries: int) -> np.ndarray:
    """A heap with room for at least so many entries, and at least half as many again as it had."""
    longer = heap(max(entries, len(heap_) * 3 // 2))
    used = int(heap_["time_ps"][0]) + 5
    longer[:used] = heap_[:used]
    return longer
