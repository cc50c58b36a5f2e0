"""Distributions of the sizes of flows: two published ones, and files."""

from bisect import bisect_left
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from netsim.documents import read_lines
from netsim.foundation.refusal import Refusal

_PACKET = 1460


class Sizes(NamedTuple):
    """A distribution of sizes: the share of flows of at most so many bytes, ascending to 1, linear in between."""

    bytes: tuple[float, ...]
    shares: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean size in bytes."""
        points = list(zip(self.bytes, self.shares, strict=True))
        first = self.bytes[0] * self.shares[0]
        return first + sum((b - a) * (x + y) / 2 for (x, a), (y, b) in pairwise(points))

    def at(self, share: float) -> int:
        """The size, at least 1 B, that a share in [0, 1] of the flows does not exceed."""
        place = bisect_left(self.shares, share)
        if place == 0:
            return max(1, round(self.bytes[0]))
        low, high = self.shares[place - 1], self.shares[place]
        part = (share - low) / (high - low)
        return max(1, round(self.bytes[place - 1] + part * (self.bytes[place] - self.bytes[place - 1])))


def _in_packets(*points: tuple[int, float]) -> Sizes:
    return Sizes(tuple(_PACKET * packets for packets, _ in points), tuple(share for _, share in points))


PUBLISHED = {
    "web_search": _in_packets(
        (6, 0.15), (13, 0.2), (19, 0.3), (33, 0.4), (53, 0.53), (133, 0.6), (667, 0.7), (1333, 0.8), (3333, 0.9),
        (6667, 0.97), (20000, 1.0),
    ),
    "data_mining": _in_packets(
        (1, 0.5), (2, 0.6), (3, 0.7), (7, 0.8), (267, 0.9), (2107, 0.95), (66667, 0.99), (666667, 1.0)
    ),
}  # fmt: skip
"""Web search: Alizadeh et al., Data center TCP (SIGCOMM 2010). Data mining: Greenberg et al., VL2 (SIGCOMM 2009).

The points are those of Alizadeh et al., pFabric (SIGCOMM 2013), in packets of 1,460 B.
"""


def read_sizes(path: Path) -> Sizes:
    """Reads a distribution from a file: lines ``bytes,share``, both ascending, the last share 1."""
    remedy = "write lines bytes,share, such as 10000,0.15, both ascending to 1"
    points: list[tuple[float, float]] = []
    for number, line in enumerate(read_lines(path, "a CSV file of lines bytes,share"), 1):
        if not line.strip():
            continue
        parts = line.split(",")
        if number == 1 and [part.strip() for part in parts] == ["bytes", "share"]:
            continue
        try:
            size, share = (float(part) for part in parts)
        except ValueError:
            raise Refusal(path, f"line {number}", f"{line[:40]!r} is not bytes,share", remedy) from None
        if not (1 <= size <= 10**12 and 0 < share <= 1):
            raise Refusal(path, f"line {number}", "size or share is out of range", remedy)
        if points and not (size >= points[-1][0] and share > points[-1][1]):
            raise Refusal(path, f"line {number}", "is not above the line before", remedy)
        points.append((size, share))
    if not points or points[-1][1] != 1:
        raise Refusal(path, "file", "does not end with the share 1", remedy)
    return Sizes(*(tuple(column) for column in zip(*points, strict=True)))  # type: ignore[arg-type]
