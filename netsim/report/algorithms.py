"""The algorithms of collectives: how often each was taken, for which sizes."""

from collections import defaultdict
from html import escape

from netsim.report.page import Section, table
from netsim.results import Results
from netsim.units import format_size

_NOTE = (
    "Size: of all_reduce the vector, of all_gather the whole result, of reduce_scatter a rank's whole input, of "
    "broadcast the buffer, of all_to_all the largest input of a rank. A row stands for neighbouring sizes that "
    "took the same algorithm."
)
_CHOSEN = {
    "auto": "auto: the least estimate from the rates and delays of this fabric",
    "nccl": "nccl: the choice of NCCL's model of latencies and bandwidths",
    "table": "table: the last row of the table that holds",
}

Row = tuple[str, int, int, int, str, int]
"""Collective, ranks, least and largest size in bytes, algorithm, number of collectives."""


def rows(results: Results) -> list[Row]:
    """Algorithms by collective, number of ranks and size; neighbouring sizes with one algorithm share a row."""
    found: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for (op, ranks, size, algorithm), count in sorted(results.algorithms.items()):
        of_op = found[op, ranks]
        if of_op and of_op[-1][4] == algorithm:
            of_op[-1] = (op, ranks, of_op[-1][2], size, algorithm, of_op[-1][5] + count)
        else:
            of_op.append((op, ranks, size, size, algorithm, count))
    return [row for of_op in found.values() for row in of_op]


def sections(results: Results) -> list[Section]:
    """The section of the page; none for a workload of one collective with an algorithm by name."""
    chosen = [by for by in _CHOSEN if by in results.scenario["algorithms"].values()]
    if not results.algorithms or (not chosen and sum(results.algorithms.values()) == 1):
        return []
    head = ("collective", "ranks", "size", "algorithm", "collectives")
    lines = [
        (op, f"{ranks:,}", _sizes(least, most), algorithm, f"{count:,}")
        for op, ranks, least, most, algorithm, count in rows(results)
    ]
    note = " ".join([_NOTE, *(f"{_CHOSEN[by]}." for by in chosen)])
    return [Section("Algorithms of collectives", table(head, lines) + f'<p class="note">{escape(note)}</p>')]


def _sizes(least: int, most: int) -> str:
    return format_size(least) if least == most else f"{format_size(least)} to {format_size(most)}"
