"""Distinct rows of integers, each with its number of tokens: counts that are too sparse for an array.

Shape legend: N distinct rows, C columns.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

_LARGEST_KEY = 1 << 62


@dataclass(frozen=True, eq=False)
class Tally:
    """A table of counts; those of two parts of a trace add up to that of the whole, in any order.

    Attributes:
        rows: Distinct rows of numbers from -1 up, ascending, int64 [N, C].
        tokens: Tokens of each row, at least 1, int64 [N].
    """

    rows: NDArray[np.int64]
    tokens: NDArray[np.int64]

    @classmethod
    def count(cls, rows: NDArray[np.int64], tokens: NDArray[np.int64] | None = None) -> Self:
        """Add up equal rows.

        Args:
            rows: Numbers from -1 up, [any, C].
            tokens: Tokens of each row, [any]; 1 each by default.

        Returns:
            The table.
        """
        tokens = np.ones(len(rows), np.int64) if tokens is None else tokens
        if not len(rows):
            return cls(rows, tokens)
        keys = _keys(rows)
        order = np.lexsort(keys[::-1])
        changes = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
        starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
        return cls(rows[order[starts]], np.add.reduceat(tokens[order], starts))

    def __add__(self, other: Self) -> Self:
        """Counts of both."""
        return self.count(np.concatenate([self.rows, other.rows]), np.concatenate([self.tokens, other.tokens]))


def _keys(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The columns packed into as few sort keys as hold them, the most significant first."""
    keys: list[NDArray[np.int64]] = []
    reach = _LARGEST_KEY
    for column in rows.T:
        span = int(column.max()) + 2
        if reach * span >= _LARGEST_KEY:
            keys.append(column + 1)
            reach = span
        else:
            keys[-1] = keys[-1] * span + (column + 1)
            reach *= span
    return keys
