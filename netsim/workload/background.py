"""Background traffic: flows of given sizes between hosts that are drawn, at a rate that fills a share of the links."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from netsim.draws import Draws, Purpose
from netsim.foundation.lines import read_lines
from netsim.foundation.refusal import Refusal
from netsim.foundation.units import PICOSECONDS_PER_SECOND, Duration
from netsim.topology.protocol import Topology
from netsim.workload.program import Program
from netsim.workload.protocol import Schedules, WorkloadSection

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


MOST = 4 * 10**6
"""Most flows of a job."""


class BackgroundConfig(WorkloadSection):
    """Section ``workload`` of kind ``background``.

    Background traffic does not count: the run ends when all other jobs are done. Flows that have not ended by then
    are left out.

    Args:
        load: Average load: the share of the rate of its link that each host of the job sends.
        sizes: Distribution of flow sizes: web_search, data_mining, or a CSV file of lines ``bytes,share``: the share of
            flows of at most so many bytes, linear in between.
        until: Simulated time until which flows start; make it longer than the other jobs take.
        arrivals: Start times of flows. poisson: at random; constant: at equal distances, beginning at a random moment.
        seed: Seed of the flows' start times, sizes and receivers; the flows are the same in all runs.
    """

    kind: Literal["background"]
    load: float = Field(gt=0, lt=1)
    sizes: str = "web_search"
    until: Annotated[Duration, Field(gt=0)]
    arrivals: Literal["poisson", "constant"] = "poisson"
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0


class BackgroundWorkload:
    def __init__(self, config: BackgroundConfig, topology: Topology, hosts: Sequence[int]) -> None:
        self._config, self._topology, self._hosts = config, topology, hosts
        self._draws = Draws(config.seed, Purpose.BACKGROUND)
        self.notices: list[str] = []

    def size(self, available: int) -> int:
        if available < 2:
            raise Refusal("scenario", "workload", "background traffic needs two ranks", "give the job more ranks")
        return available

    def extend(self, program: Program, ranks: Sequence[int], start_ps: int, schedules: Schedules) -> None:  # noqa: ARG002
        config = self._config
        sizes = PUBLISHED.get(config.sizes) or read_sizes(Path(config.sizes))
        sharing, first = Counter(self._hosts[rank] for rank in ranks), len(program.tasks)
        for place, rank in enumerate(ranks):
            host = self._hosts[rank]
            rate_bps = self._topology.links[self._topology.up(host)].rate_bps * config.load / sharing[host]
            gap_ps = 8 * sizes.mean * PICOSECONDS_PER_SECOND / rate_bps
            expected = len(ranks) * (config.until - start_ps) / gap_ps
            if expected > MOST or len(program.tasks) - first > MOST:
                problem = f"background traffic would have about {expected:,.0f} flows, at most {MOST:,} fit"
                raise Refusal("scenario", "workload.until", problem, "shorten it, or take larger sizes")
            self._add(program, sizes, gap_ps, ranks, place, start_ps)

    def _add(
        self, program: Program, sizes: Sizes, gap_ps: float, ranks: Sequence[int], place: int, start_ps: int
    ) -> None:
        """Adds the flows of one sender."""
        config, serial = self._config, 0
        at_ps = start_ps + self._gap(gap_ps, place, serial, first=True)
        while at_ps <= config.until:
            other = self._draws(place, 4 * serial + 1) % (len(ranks) - 1)
            receiver = ranks[other + (other >= place)]
            program.move(ranks[place], receiver, sizes.at(self._share(place, 4 * serial + 2)), (), at_ps)
            serial += 1
            at_ps += self._gap(gap_ps, place, serial, first=False)

    def _gap(self, gap_ps: float, place: int, serial: int, first: bool) -> int:
        """Time in picoseconds to the next flow, at least 1."""
        share = self._share(place, 4 * serial)
        if self._config.arrivals == "constant":
            return max(1, round(gap_ps * share if first else gap_ps))
        return max(1, round(-gap_ps * log(share)))

    def _share(self, place: int, draw: int) -> float:
        """A uniform draw above 0 and at most 1."""
        return ((self._draws(place, draw) >> 11) + 1) * 2.0**-53
