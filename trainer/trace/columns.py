"""A rank's file as columns of numbers for merging, parsed many lines at a time.

Accepts exactly what :func:`moe.collective_trace.write` writes: keys in order, no blanks, no escapes. In such a line the
index of a quotation mark determines the value that it delimits. Any other text, valid or not, is left to
:func:`moe.collective_trace.read`, which reports errors.

Shape suffixes: R records or lines of a block, C bytes of a block, S sizes in the splits of all records. Words (phase,
op, group, dtype) are represented by 64-bit codes (:func:`word_code`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Self

import numpy as np
from numpy.typing import NDArray

from moe.collective_trace import OPERATIONS, PHASES, CollectiveRecord, TraceHeader

Codes = NDArray[np.uint64]
NONE = np.uint64(2**64 - 1)
"""Stands for null."""
NUMBERS = ("rank", "seq", "step", "micro", "bytes_in", "bytes_out", "root", "peer", "tag")
WORDS = ("phase", "op", "group", "dtype")
_FACTOR, _SHIFT = 0x9E3779B97F4A7C15, 29  # 2^64 divided by the golden ratio, odd: multiplication then loses nothing


@dataclass(frozen=True, eq=False)
class Splits:
    """Lists of sizes, one per record; empty where a record has none.

    Attributes:
        starts: index in `sizes` of each list's begin, and of the last list's end, [R + 1].
        sizes: bytes, [S].
    """

    starts: NDArray[np.int64]
    sizes: Codes

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Self:
        starts = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        return cls(starts, np.array([size for each in lists for size in each], np.uint64))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        lengths = np.concatenate([np.diff(part.starts) for part in parts])
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(starts, np.concatenate([part.sizes for part in parts]))

    def of_rows(self, rows: NDArray[np.int64], length: int) -> Codes:
        """The lists of some records, all of the same `length`, as a matrix [len(rows), length]."""
        return self.sizes[self.starts[rows][:, None] + np.arange(length)]


@dataclass(frozen=True, eq=False)
class Columns:
    """Records in the order in which their rank issued them, [R] each; null is :data:`NONE`, words are codes."""

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
        """Concatenates at least one part."""
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
    """The 64-bit hash of a word; collisions are possible but none is known."""
    code = len(word)
    for start in range(0, len(word), 8):
        code = (code ^ int.from_bytes(word[start : start + 8], "little")) * _FACTOR % 2**64
        code ^= code >> _SHIFT
    return np.uint64(code)


def stirred(codes: Codes) -> Codes:
    """Mixes the bits of each code; a bijection, so that different codes stay different."""
    codes = codes * np.uint64(_FACTOR)
    return codes ^ (codes >> np.uint64(_SHIFT))


def mixed(first: Codes, *others: Codes) -> Codes:
    """A hash of each row of the columns; two different rows collide with a probability of about 2^-64."""
    codes = stirred(first)
    for column in others:
        codes = stirred(codes ^ column)
    return codes


Places = NDArray[np.int64]

_KEYS = (
    *("rank", "seq", "step", "micro", "phase", "op", "group", "size1", "dtype", "bytes_in", "bytes_out"),
    *("in_splits", "out_splits", "root", "peer", "tag", "async", "wait_seq", "gap_ns", "t_issue_ns", "t_done_ns"),
    "layer",
)
_NULLABLE = frozenset({"root", "peer", "tag", "wait_seq", "gap_ns", "t_issue_ns", "t_done_ns", "layer"})
_INTEGERS = ("rank", "seq", "step", "micro", "bytes_in", "bytes_out", *_NULLABLE)
_MARKS = (*accumulate((4 if key in WORDS else 2 for key in _KEYS), initial=0),)
"""Index in a line of the quotation mark that opens each key; the last entry is the number of marks in a line."""
_PAD = 16
"""Bytes before and behind a block, so that eight bytes can be read around every place in it."""
_MOST_DIGITS = 16
_NULL = np.uint64(int.from_bytes(b"null", "little"))
_TRUE, _FALSE = (np.uint64(int.from_bytes(word, "little")) for word in (b"true", b"false"))
_PHASES = {word: word_code(word.encode()) for word in PHASES}
_OPERATIONS = {word: word_code(word.encode()) for word in OPERATIONS}
_FIRST = np.array([2 ** (8 * length) - 1 for length in range(9)], np.uint64)
"""Masks of the first n bytes of eight, indexed by n."""
_LAST = ~_FIRST[::-1]
"""Masks of the last n bytes of eight, indexed by n."""


class Odd(Exception):  # noqa: N818  it may be right
    """Raised if a block is not exactly as this project writes it; the block may still be valid."""


def parse(block: bytes, header: TraceHeader, rank: int, last: int) -> Columns:
    """Parses whole lines after the header, with all checks of :func:`moe.collective_trace.read`.

    Raises Odd if the lines are wrong or merely unusual. `last` is the `seq` of the record before, -1 if there is none.
    """
    text = _Text(block)
    numbers = {key: text.number(key, nullable=key in _NULLABLE) for key in _INTEGERS}
    words = {key: text.word(key) for key in WORDS}
    sent, got = text.splits("in_splits"), text.splits("out_splits")
    size1, asynchronous = text.flag("size1"), text.flag("async")
    columns = Columns(**{name: numbers[name] for name in NUMBERS}, **words, in_splits=sent, out_splits=got)
    _check(columns, header, rank, last, size1)
    waits = numbers["wait_seq"]
    _require((waits != NONE) == asynchronous)
    _require(~asynchronous | (waits > columns.seq))
    return columns


def _require(holds: NDArray[np.bool_] | bool | np.bool_) -> None:
    if not np.all(holds):
        raise Odd


def _check(columns: Columns, header: TraceHeader, rank: int, last: int, size1: NDArray[np.bool_]) -> None:
    """Raises Odd unless the records fit the header, each other and their own fields."""
    _require(columns.rank == np.uint64(rank))
    _require(np.isin(columns.step, np.array(header.steps, np.uint64)))
    _require(np.isin(columns.phase, np.array([_PHASES[word] for word in header.phases])))
    _require(int(columns.seq[0]) > last)
    _require(columns.seq[1:] > columns.seq[:-1])
    known = {word: columns.op == code for word, code in _OPERATIONS.items()}
    _require(np.logical_or.reduce(list(known.values())))
    _require(~known["all_reduce"] | (columns.bytes_in == columns.bytes_out))
    _require((columns.root != NONE) == known["broadcast"])
    to_one = known["send"] | known["recv"]
    for addressed in (columns.peer, columns.tag):
        _require((addressed != NONE) == to_one)
    to_all = known["all_to_all"]
    members = _members(columns, header.groups, rank, size1)
    for splits, total in ((columns.in_splits, columns.bytes_in), (columns.out_splits, columns.bytes_out)):
        lengths = np.diff(splits.starts)
        _require(lengths == np.where(to_all, members, 0))
        sums = np.concatenate([[np.uint64(0)], np.cumsum(splits.sizes)])
        _require(~to_all | (sums[splits.starts[1:]] - sums[splits.starts[:-1]] == total))


def _members(
    columns: Columns, groups: Mapping[str, tuple[int, ...]], rank: int, size1: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The size of each record's group; raises Odd unless rank, root and peer are in the group."""
    members = np.zeros(len(columns), np.int64)
    for name, ranks in groups.items():
        (rows,) = np.nonzero(columns.group == word_code(name.encode()))
        if not len(rows):
            continue
        _require(rank in ranks)
        members[rows] = len(ranks)
        _require(size1[rows] == (len(ranks) == 1))
        for addressed in (columns.root[rows], columns.peer[rows]):
            if (addressed != NONE).any():
                _require(np.isin(addressed, np.array([*ranks, NONE], np.uint64)))
    _require(members > 0)
    return members


class _Text:
    """A block of lines, and the byte offsets of the values in each line."""

    def __init__(self, block: bytes) -> None:
        self._bytes = np.frombuffer(bytes(_PAD) + block + bytes(_PAD), np.uint8)
        self._eights = np.ndarray((self._bytes.size - 7,), np.dtype("<u8"), self._bytes, strides=(1,))
        _require(block.isascii() and b"\\" not in block)
        (ends,) = np.nonzero(self._bytes == ord("\n"))
        (marks,) = np.nonzero(self._bytes == ord('"'))
        _require(marks.size == len(ends) * _MARKS[-1])
        self._ends: Places = ends
        self._marks: Places = np.ascontiguousarray(marks.reshape(len(ends), _MARKS[-1]).T)
        begins = np.concatenate([[_PAD], ends[:-1] + 1])
        _require(self._marks[0] == begins + 1)
        _require(self._marks[-1] < ends)
        _require(self._eights[ends - 1] & _FIRST[2] == np.uint64(int.from_bytes(b"}\n", "little")))
        for index, key in enumerate(_KEYS):
            self._require_key(index, f'{"," if index else "{"}"{key}":'.encode())

    def _require_key(self, index: int, literal: bytes) -> None:
        """Raises Odd unless `literal` surrounds a key's opening quotation mark in every line."""
        begins = self._marks[_MARKS[index]] - 1
        for start in range(0, len(literal), 8):
            part = literal[start : start + 8]
            wanted = np.uint64(int.from_bytes(part, "little"))
            _require(self._eights[begins + start] & _FIRST[len(part)] == wanted)

    def _span(self, key: str) -> tuple[Places, Places]:
        """Byte offsets where a key's value begins and ends in each line."""
        index = _KEYS.index(key)
        opens, following = _MARKS[index], _MARKS[index + 1]
        last = following == _MARKS[-1]
        return self._marks[opens] + len(key) + 3, self._ends - 1 if last else self._marks[following] - 1

    def flag(self, key: str) -> NDArray[np.bool_]:
        """Values true or false."""
        begins, ends = self._span(key)
        held = self._eights[begins] & _FIRST[np.minimum(ends - begins, 8)]
        _require((held == _TRUE) | (held == _FALSE))
        return held == _TRUE

    def word(self, key: str) -> Codes:
        """Codes of the words (:func:`word_code`)."""
        mark = _MARKS[_KEYS.index(key)] + 2
        begins, lengths = self._marks[mark] + 1, self._marks[mark + 1] - self._marks[mark] - 1
        around, ends = self._span(key)
        _require((begins == around + 1) & (self._marks[mark + 1] + 1 == ends) & (lengths > 0))
        codes = lengths.astype(np.uint64)
        for start in range(0, int(lengths.max()), 8):
            rest = np.clip(lengths - start, 0, 8)
            held = self._eights[np.minimum(begins + start, self._eights.size - 1)] & _FIRST[rest]
            _require(_no_controls(held, rest))
            further = stirred(codes ^ held)
            codes = further if (rest > 0).all() else np.where(rest > 0, further, codes)
        return codes

    def number(self, key: str, *, nullable: bool) -> Codes:
        """Whole numbers, or null."""
        begins, ends = self._span(key)
        if not nullable:
            return self._numbers(begins, ends)
        null = (ends - begins == 4) & (self._eights[begins] & _FIRST[4] == _NULL)
        if null.all():
            return np.full(len(begins), NONE)
        if not null.any():
            return self._numbers(begins, ends)
        numbers = np.full(len(begins), NONE)
        numbers[~null] = self._numbers(begins[~null], ends[~null])
        return numbers

    def splits(self, key: str) -> Splits:
        """Lists of whole numbers, or null."""
        begins, ends = self._span(key)
        null = (ends - begins == 4) & (self._eights[begins] & _FIRST[4] == _NULL)
        (rows,) = np.nonzero(~null)
        starts = np.zeros(len(begins) + 1, np.int64)
        if not len(rows):
            return Splits(starts, np.zeros(0, np.uint64))
        begins, ends = begins[rows], ends[rows]
        _require((self._bytes[begins] == ord("[")) & (self._bytes[ends - 1] == ord("]")) & (ends - begins > 2))
        low, high = int(begins[0]), int(ends[-1])
        (commas,) = np.nonzero(self._bytes[low:high] == ord(","))
        commas += low
        first, behind = np.searchsorted(commas, begins), np.searchsorted(commas, ends)
        inside = np.zeros(len(commas) + 1, np.int64)
        np.add.at(inside, first, 1)
        np.add.at(inside, behind, -1)
        commas = commas[np.cumsum(inside[:-1]) > 0]
        starts[rows + 1] = behind - first + 1
        sizes = self._numbers(
            np.sort(np.concatenate([begins, commas])) + 1, np.sort(np.concatenate([commas, ends - 1]))
        )
        return Splits(np.cumsum(starts), sizes)

    def _numbers(self, begins: Places, ends: Places) -> Codes:
        """Parses whole numbers of at most 16 digits, without leading zeros."""
        lengths = ends - begins
        _require((lengths > 0) & (lengths <= _MOST_DIGITS))
        _require((lengths == 1) | (self._bytes[begins] != ord("0")))
        numbers = _eight_digits(self._eights[ends - 8], np.minimum(lengths, 8))
        (long,) = np.nonzero(lengths > 8)
        if len(long):
            numbers[long] += np.uint64(10**8) * _eight_digits(self._eights[ends[long] - 16], lengths[long] - 8)
        return numbers


def _eight_digits(eights: Codes, lengths: Places) -> Codes:
    """The number in the last `lengths` of eight digits, whose first digit is in the lowest byte."""
    mask = _LAST[lengths]
    digits = (eights ^ np.uint64(0x3030303030303030)) & mask
    _require((digits + np.uint64(0x7676767676767676)) & np.uint64(0x8080808080808080) == 0)
    pairs = digits * np.uint64(10) + (digits >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
    fours = pairs * np.uint64(100) + (pairs >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
    return fours * np.uint64(10_000) + (fours >> np.uint64(32)) & np.uint64(0x00000000FFFFFFFF)


def _no_controls(eights: Codes, lengths: Places) -> NDArray[np.bool_]:
    """Whether the first `lengths` of eight ASCII characters are at least a blank (no control characters)."""
    filled = eights | (~_FIRST[lengths] & np.uint64(0x2020202020202020))
    return filled + np.uint64(0x6060606060606060) & np.uint64(0x8080808080808080) == np.uint64(0x8080808080808080)
