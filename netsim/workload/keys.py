"""Which messages share their draws, under ``draws: collective``: those at the same place of equal collectives."""

from collections.abc import Iterable
from hashlib import sha256

import numpy as np

from netsim.workload.tasks import TaskColumns


def keys_of(columns: TaskColumns, collectives: Iterable[tuple[int, int]]) -> np.ndarray | None:
    """[tasks] the task whose draws each task has: that at its place of the first equal collective; None if all differ.

    Collectives (first message, end of the last) are equal if they move the same bytes between the same ranks in the
    same order. A task outside of collectives has its own draws.
    """
    keys, first_of = np.arange(len(columns.bytes), dtype=np.int64), dict[bytes, int]()
    again = False
    for begin, end in collectives:
        digest = sha256()
        for column in (columns.src, columns.dst, columns.bytes):
            digest.update(np.ascontiguousarray(column[begin:end]).data)
        first = first_of.setdefault(digest.digest(), begin)
        if first < begin < end:
            keys[begin:end] = np.arange(first, first + end - begin)
            again = True
    return keys if again else None
