"""Background traffic: flows that start on their own, whatever becomes of them, between drawn hosts."""

from collections import Counter
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from netsim.draws import Draws, Purpose
from netsim.foundation.refusal import Refusal
from netsim.topology.protocol import Topology
from netsim.units import PICOSECONDS_PER_SECOND, Duration
from netsim.workload.program import Program
from netsim.workload.protocol import Schedules
from netsim.workload.section import WorkloadSection
from netsim.workload.sizes import PUBLISHED, Sizes, read_sizes

MOST = 4 * 10**6
"""Flows of a job."""


class BackgroundConfig(WorkloadSection, frozen=True):
    """Section ``workload`` of kind ``background``.

    It does not count: the run ends when all other jobs are done. Flows that have not ended by then are left out.

    Args:
        load: Share of the hosts' links that the flows fill on average, sent by each host of the job.
        sizes: web_search, data_mining, or a CSV file of lines ``bytes,share``: the share of flows of at most so many
            bytes, linear in between.
        until: When the last flow starts; make it longer than the other jobs take.
        arrivals: poisson: at random; constant: at equal distances, beginning at a random moment.
        seed: Of the flows; they are the same in all runs.
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
        """Time to the next flow, at least 1 ps."""
        share = self._share(place, 4 * serial)
        if self._config.arrivals == "constant":
            return max(1, round(gap_ps * share if first else gap_ps))
        return max(1, round(-gap_ps * log(share)))

    def _share(self, place: int, draw: int) -> float:
        """A number above 0 and at most 1."""
        return ((self._draws(place, draw) >> 11) + 1) * 2.0**-53
