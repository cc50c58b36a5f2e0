"""Records of a rank as columns of numbers, the form in which merging compares them.

R records, S sizes in the splits of all of them. Words (phase, op, group, dtype) are told apart by numbers of 64 bits
that :func:`word_code` makes of their bytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from moe.collective_trace import CollectiveRecord

Codes = NDArray[np.uint64]
NONE = np.uint64(2**64 - 1)
"""Stands for null."""
NUMBERS = ("rank", "seq", "step", "micro", "bytes_in", "bytes_out", "root", "peer", "tag")
WORDS = ("phase", "op", "group", "dtype")
_FACTOR, _SHIFT = 0x9E3779B97F4A7C15, 29  # 2^64 divided by the golden ratio, odd: multiplication then loses nothing


@dataclass(frozen=True, eq=False)
class Splits:
    """Lists of sizes, one for each record; empty where a record has none.

    Attributes:
        starts: where in `sizes` each list begins, and the last one ends, [R + 1].
        sizes: bytes, [S].
    """

    starts: NDArray[np.int64]
    sizes: Codes

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Self:
        """From lists."""
        starts = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        return cls(starts, np.array([size for each in lists for size in each], np.uint64))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """One part after another."""
        lengths = np.concatenate([np.diff(part.starts) for part in parts])
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(starts, np.concatenate([part.sizes for part in parts]))

    def of_rows(self, rows: NDArray[np.int64], length: int) -> Codes:
        """The lists of some records, all of one length, as a matrix [len(rows), length]."""
        return self.sizes[self.starts[rows][:, None] + np.arange(length)]


@dataclass(frozen=True, eq=False)
class Columns:
    """Records in the order in which their rank issued them, [R] each; a null is :data:`NONE`, words have codes."""

    rank: Codes
    seq: Codes
    step: Codes
    micro: Codes
    bytes_in: Codes
    bytes_out: Codes
    root: Codes
    peer: Codes
    tag: Codes
    phase: Codes
    op: Codes
    group: Codes
    dtype: Codes
    in_splits: Splits
    out_splits: Splits

    @classmethod
    def of(cls, records: Sequence[CollectiveRecord]) -> Self:
        """From records."""
        used = {getattr(record, name) for record in records for name in WORDS}
        codes = {word: word_code(word.encode()) for word in used}

        def numbers(name: str) -> Codes:
            values = (getattr(record, name) for record in records)
            return np.array([int(NONE) if value is None else value for value in values], np.uint64)

        return cls(
            **{name: numbers(name) for name in NUMBERS},
            **{name: np.array([codes[getattr(record, name)] for record in records], np.uint64) for name in WORDS},
            in_splits=Splits.of([record.in_splits or () for record in records]),
            out_splits=Splits.of([record.out_splits or () for record in records]),
        )

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """One part after another; there is at least one."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        columns = {}
        for field in fields(cls):
            values = [getattr(part, field.name) for part in parts]
            columns[field.name] = Splits.joined(values) if field.type is Splits else np.concatenate(values)
        return cls(**columns)

    def __len__(self) -> int:
        return len(self.rank)


def word_code(word: bytes) -> np.uint64:
    """A number for a word; no two words are known to share one."""
    code = len(word)
    for start in range(0, len(word), 8):
        code = (code ^ int.from_bytes(word[start : start + 8], "little")) * _FACTOR % 2**64
        code ^= code >> _SHIFT
    return np.uint64(code)


def stirred(codes: Codes) -> Codes:
    """Spreads every bit of some numbers over all of them; no two numbers become one."""
    codes = codes * np.uint64(_FACTOR)
    return codes ^ (codes >> np.uint64(_SHIFT))


def mixed(first: Codes, *others: Codes) -> Codes:
    """One number for each row of some columns; two rows share one in about 2^64 only if they are the same."""
    codes = stirred(first)
    for column in others:
        codes = stirred(codes ^ column)
    return codes
