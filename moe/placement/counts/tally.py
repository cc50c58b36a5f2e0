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
        if not len(rows):
            return cls(rows, np.zeros(0, np.int64))
        keys = _keys(rows)
        order = np.argsort(keys)
        starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
        if tokens is None:
            return cls(rows[order[starts]], np.diff(starts, append=len(rows)))
        return cls(rows[order[starts]], np.add.reduceat(tokens[order], starts))

    def __add__(self, other: Self) -> Self:
        """Counts of both."""
        return self.count(np.concatenate([self.rows, other.rows]), np.concatenate([self.tokens, other.tokens]))


def _keys(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number a row, from 0 up, in the order of the rows: a sort of numbers is several times as fast as of rows."""
    keys = np.zeros(len(rows), np.int64)
    reach = 1
    for column in rows.T:
        lowest = int(column.min())
        digits, span = column - lowest, int(column.max()) - lowest + 1
        if reach * span > _LARGEST_KEY:
            keys, reach = _ranked(keys)
        if reach * span > _LARGEST_KEY:
            digits, span = _ranked(digits)
        keys = keys * span + digits
        reach *= span
    return keys


def _ranked(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Numbers replaced by their ranks among the distinct ones, and how many distinct ones there are."""
    order = np.argsort(numbers)
    ranks = np.empty(len(numbers), np.int64)
    ranks[order] = np.cumsum(np.diff(numbers[order], prepend=numbers[order[0]]) != 0)
    return ranks, int(ranks.max()) + 1
