"""Measured times of products, attention and memory traffic, and their interpolation to other sizes, with its error."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

from netsim.foundation.lines import read_header, read_lines, read_row, whole_number
from netsim.foundation.refusal import Refusal, nearest

COLUMNS = ("kind", "sizes", "dtype", "time_us")
SIZES = {"gemm": "MxNxK", "attention": "BATCHxHEADSxSEQUENCExWIDTH", "memory": "BYTES"}
"""How a row of each kind writes its sizes; width is that of a head, bytes are those read and written."""
FEWEST = 9
"""Fewest rows of a kind: the largest of 9 errors bounds the error of a further size with a probability of 90 %."""
_MOST_SIZE = 1 << 40
_NUMBER = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+)?")


class Measured:
    """Times by size: operations of a product or attention, bytes of memory traffic.

    Between two sizes the time follows a power of the size; rows of one size count as their geometric mean. A smaller
    size takes the time of the smallest, a larger one the rate of the largest. The shape of a product does not count
    beyond its operations: what that costs is part of the error.
    """

    def __init__(self, rows: Sequence[tuple[int, float]]) -> None:
        """Takes sizes and times, ps."""
        times: dict[int, list[float]] = defaultdict(list)
        for size, time_ps in rows:
            times[size].append(math.log(time_ps))
        self.rows, self.smallest, self.largest = len(rows), min(times), max(times)
        self._sizes = np.log(np.array(sorted(times), dtype=float))
        self._times = np.array([fmean(times[size]) for size in sorted(times)])
        self.error = self._error([times[size] for size in sorted(times)])

    def time_ps(self, size: int) -> float:
        """Time of a size in picoseconds; 0 for size 0."""
        return math.exp(_at(math.log(size), self._sizes, self._times)) if size else 0.0

    def _error(self, times: Sequence[Sequence[float]]) -> float:
        """Factor by which 90 % of times are longer or shorter at most: from each row by all others (conformal)."""
        residuals = []
        for place, (size, same) in enumerate(zip(self._sizes, times, strict=True)):
            without = np.delete(self._sizes, place), np.delete(self._times, place)
            for own in same:
                others = (sum(same) - own) / (len(same) - 1) if len(same) > 1 else _at(size, *without)
                residuals.append(abs(own - others))
        return math.exp(sorted(residuals)[math.ceil(0.9 * (len(residuals) + 1)) - 1])


class Computed(NamedTuple):
    """The time of a size by a table; in nine of ten cases it is longer or shorter by at most the factor `error`.

    The size is operations or bytes, as in `Measured`; extrapolated: it lies outside of those measured.
    """

    table: str
    kind: str
    size: int
    time_ps: float
    error: float
    extrapolated: bool


def _at(size: float, sizes: np.ndarray, times: np.ndarray) -> float:
    """Interpolates the time of a size; all values are logarithms."""
    return float(np.interp(size, sizes, times)) + max(0.0, float(size - sizes[-1]))


def read_measured(path: Path, dtype: str | None) -> Mapping[str, Measured]:
    """Reads a table of measurements, a line each: kind, sizes as `SIZES` says, dtype, time in microseconds.

    Args:
        path: A CSV file whose header has `COLUMNS`; others are left alone.
        dtype: Type of elements whose rows of gemm and attention count; None: there is only one.
    """
    remedy = f"write {','.join(COLUMNS)}, such as gemm,4096x4096x4096,bfloat16,221.3"
    lines = read_lines(path, "a table of measurements in CSV")
    header = read_header(path, lines[0], COLUMNS, remedy)
    measured: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for number, line in enumerate(lines[1:], start=2):
        if line.strip():
            row = read_row(path, number, header, line, remedy)
            of_type = measured["" if row["kind"] == "memory" else row["dtype"]]
            of_type[row["kind"]].append((_size(path, number, row), _time_ps(path, number, row["time_us"])))
    memory, types = measured.pop("", {}), sorted(measured)
    if dtype is None and len(types) > 1:
        raise Refusal(path, "dtype", f"has several ({', '.join(types)})", "set workload.device.dtype to one of them")
    if not types or (dtype or types[0]) not in types:
        problem = f"has no products of type {dtype}" if dtype else "has no products"
        raise Refusal(path, "dtype", problem, f"write one of {', '.join(types)}" if types else remedy)
    chosen = {**measured[dtype or types[0]], **memory}
    for kind, rows in chosen.items():
        if len(rows) < FEWEST or len({size for size, _ in rows}) < 2:
            problem = f"{kind} has {len(rows)} rows, of which an interval of 90 % takes {FEWEST} and two sizes"
            raise Refusal(path, "kind", problem, "measure more sizes, or leave the kind out")
    if "gemm" not in chosen:
        raise Refusal(path, "kind", "gemm is missing", remedy)
    return {kind: Measured(rows) for kind, rows in chosen.items()}


def _size(path: Path, number: int, row: Mapping[str, str]) -> int:
    """Size of a row: operations of a product or attention, or bytes of memory traffic."""
    kind, field = row["kind"], f"line {number}: sizes"
    if kind not in SIZES:
        near = nearest(kind, SIZES)
        problem, remedy = f"is not known ({kind!r:.40})", f"write {near}" if near else f"write {' or '.join(SIZES)}"
        raise Refusal(path, f"line {number}: kind", problem, remedy)
    cells = row["sizes"].split("x")
    if len(cells) != SIZES[kind].count("x") + 1:
        raise Refusal(path, field, f"is not of the form {SIZES[kind]} ({row['sizes']!r:.40})", "write it so")
    sizes = [whole_number(path, field, cell, 1) for cell in cells]
    if max(sizes) > _MOST_SIZE:
        raise Refusal(path, field, f"is too large ({max(sizes)})", f"write at most {_MOST_SIZE}")
    match sizes:
        case [rows, columns, inner]:
            return 2 * rows * columns * inner
        case [batch, heads, sequence, width]:
            return 4 * batch * heads * sequence**2 * width
        case _:
            return sizes[0]


def _time_ps(path: Path, number: int, text: str) -> float:
    time_us = float(text) if _NUMBER.fullmatch(text) else 0.0
    if not 1e-6 <= time_us < 1e12:
        problem = f"is not a time ({text!r:.40})"
        raise Refusal(
            path, f"line {number}: time_us", problem, "write microseconds, a picosecond or more, such as 221.3"
        )
    return 1e6 * time_us


def computed(table: Mapping[str, Measured], path: str, asked: Mapping[str, Set[int]]) -> list[Computed]:
    """The time of each size in `asked`, by kind, from the table."""
    return [
        Computed(path, kind, size, one.time_ps(size), one.error, not one.smallest <= size <= one.largest)
        for kind, one in table.items()
        for size in sorted(asked.get(kind, set()) - {0})
    ]


def notices(table: Mapping[str, Measured], path: str, sizes: Sequence[Computed]) -> list[str]:
    """Remarks on the errors of the times, and on the number of extrapolated sizes of each kind."""
    factors = [f"{one.error:.2f} for {kind} ({one.rows} rows)" for kind, one in table.items()]
    remarks = [
        f"{path}: with 90 % a time is longer or shorter than simulated by a factor of {', '.join(factors)} at most"
    ]
    for kind in table:
        of_kind = [one.extrapolated for one in sizes if one.kind == kind]
        if any(of_kind):
            outside = f"{sum(of_kind)} of {len(of_kind)} sizes of {kind}"
            remarks.append(f"{path}: extrapolated to {outside}, outside of those measured")
    return remarks
