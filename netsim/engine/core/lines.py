"""Arrays whose records are whole lines of the processor's cache, in pages of which few are enough."""

import mmap

import numpy as np

LINE_BYTES = 64
_HUGE_PAGE_BYTES = 1 << 21


def zeros(size: int, dtype: np.dtype) -> np.ndarray:
    """Zeros that begin where a line of the cache begins, in huge pages if they fill half of one.

    What is read in no order would otherwise miss the processor's table of pages as often as its cache.
    """
    needed = size * dtype.itemsize
    if 2 * needed >= _HUGE_PAGE_BYTES:
        return _in_huge_pages(needed).view(dtype)
    raw = np.zeros(needed + LINE_BYTES, dtype=np.uint8)
    begin = -raw.ctypes.data % LINE_BYTES
    return raw[begin : begin + needed].view(dtype)


def _in_huge_pages(size: int) -> np.ndarray:
    """So many bytes, which begin where a huge page begins; the system takes common pages if it has no huge ones."""
    memory = mmap.mmap(-1, size + 2 * _HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(memory, dtype=np.uint8)
    begin = -raw.ctypes.data % _HUGE_PAGE_BYTES
    return raw[begin : begin + size]
