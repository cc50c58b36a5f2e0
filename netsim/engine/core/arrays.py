"""Arrays on which the core works: whole lines of the cache, tasks that wait for a task, and heaps of events.

Entry 0 of a heap is its header, whose time is the number of entries; the core keeps the others in order
(`calendar.hpp`). Four entries that are never due follow the last one. Those behind them are written as the heap grows,
so that room for all that may ever happen takes no memory yet.
"""

import mmap

import numpy as np

from netsim.engine import _core
from netsim.engine.core.shared import record

LINE_BYTES = 64
_HUGE_PAGE_BYTES = 1 << 21


def zeros(size: int, dtype: np.dtype) -> np.ndarray:
    """Zeros that begin where a line of the cache begins, in huge pages if they fill half of one.

    Without huge pages, reads in random order would miss the TLB as often as the cache.
    """
    needed = size * dtype.itemsize
    if 2 * needed >= _HUGE_PAGE_BYTES:
        return _in_huge_pages(needed).view(dtype)
    raw = np.zeros(needed + LINE_BYTES, dtype=np.uint8)
    begin = -raw.ctypes.data % LINE_BYTES
    return raw[begin : begin + needed].view(dtype)


def _in_huge_pages(size: int) -> np.ndarray:
    """Zeros, `size` bytes that begin at a huge page; the system uses common pages if it has no huge pages."""
    memory = mmap.mmap(-1, size + 2 * _HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(memory, dtype=np.uint8)
    begin = -raw.ctypes.data % _HUGE_PAGE_BYTES
    return raw[begin : begin + size]


def successors(after_begin: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first row of each task (and the end), and its rows: the tasks that wait for it, ascending, int32."""
    tasks = len(after_begin) - 1
    begin, waiting = np.zeros(tasks + 2, dtype=np.int64), np.empty(len(after), dtype=np.int32)
    _core.list_successors(after_begin, after, begin, waiting)
    return begin[: tasks + 1], waiting


END_PS = 2**62
"""The time of an event that never happens, later than all others."""
NEVER = 2**63 - 1


def heap(entries: int) -> np.ndarray:
    """Returns an empty heap with room for `entries` entries."""
    fresh = np.zeros(entries + 5, dtype=record("Entry"))
    fresh["time_ps"][1:6] = fresh["key"][1:6] = NEVER
    return fresh


def longer_heap(heap_: np.ndarray, entries: int) -> np.ndarray:
    """Returns a copy of a heap with room for at least `entries` entries, and at least 1.5 times its size."""
    longer = heap(max(entries, len(heap_) * 3 // 2))
    used = int(heap_["time_ps"][0]) + 5
    longer[:used] = heap_[:used]
    return longer
