"""Which tasks wait for a task, from which tasks it waits for."""

import numpy as np

from netsim.engine import _core


def successors(after_begin: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tasks that wait for each task, ascending, int32, behind the first row of each task and the end of the last."""
    tasks = len(after_begin) - 1
    begin, waiting = np.zeros(tasks + 2, dtype=np.int64), np.empty(len(after), dtype=np.int32)
    _core.list_successors(after_begin, after, begin, waiting)
    return begin[: tasks + 1], waiting
