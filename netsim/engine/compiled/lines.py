"""Arrays whose records are whole lines of the processor's cache."""

import numpy as np

LINE_BYTES = 64


def zeros(size: int, dtype: np.dtype) -> np.ndarray:
    """Zeros that begin where a line of the cache begins.

    Args:
        size: Number of records.
        dtype: Their type.
    """
    raw = np.zeros(size * dtype.itemsize + LINE_BYTES, dtype=np.uint8)
    begin = -raw.ctypes.data % LINE_BYTES
    return raw[begin : begin + size * dtype.itemsize].view(dtype)
