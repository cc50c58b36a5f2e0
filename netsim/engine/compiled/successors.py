"""Which tasks wait for a task, from which tasks it waits for."""

import numpy as np
from numba import njit


@njit(cache=True)
def successors(after_begin: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tasks that wait for each task, ascending, int32, behind the first row of each task and the end of the last."""
    tasks = len(after_begin) - 1
    begin, waiting = np.zeros(tasks + 2, dtype=np.int64), np.empty(len(after), dtype=np.int32)
    for earlier in after:
        begin[earlier + 2] += 1
    for task in range(tasks):
        begin[task + 2] += begin[task + 1]
    for task in range(tasks):
        for row in range(after_begin[task], after_begin[task + 1]):
            place = after[row] + 1
            waiting[begin[place]] = task
            begin[place] += 1
    return begin[: tasks + 1], waiting
