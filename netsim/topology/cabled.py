"""Fabrics that number links by cable, those of hosts first; and the paths that detours add to the minimal ones."""

from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple

from netsim.draws import mix
from netsim.topology.protocol import Link, Path


class Cable(NamedTuple):
    """Two links, one in each direction; a host's begins at the host. Parallel ones have a suffix, as ``.1``."""

    first: str
    second: str
    rate_bps: int
    delay_ps: int
    suffix: str = ""


class CabledFabric:
    """Cable c is link c from its first end to its second, and link len(cables) + c back; links inside hosts are last.

    Cable h, for h below `hosts`, is that of host h. The link inside a host has no delay.
    """

    def __init__(self, cables: Sequence[Cable], hosts: int, ranks_per_host: int, intra_host_rate: int) -> None:
        self.hosts = hosts
        self.ranks_per_host = ranks_per_host
        self.cables = len(cables)
        self.links = (
            *(Link(f"{a}-{b}{suffix}", a, b, rate, delay) for a, b, rate, delay, suffix in cables),
            *(Link(f"{b}-{a}{suffix}", b, a, rate, delay) for a, b, rate, delay, suffix in cables),
            *(Link(f"{host}-inside", host, host, intra_host_rate, 0) for host, *_ in cables[:hosts]),
        )

    def up(self, host: int) -> int:
        return host

    def down(self, host: int) -> int:
        """The way back on the host's cable."""
        return self.cables + host

    def inside(self, host: int) -> int:
        """Behind the links of the cables."""
        return 2 * self.cables + host

    def reverse(self, link: int) -> int:
        """As many links away as there are cables."""
        if link >= 2 * self.cables:
            return link
        return link + self.cables if link < self.cables else link - self.cables


Ways = Callable[[int, int], tuple[Path, ...]]


class DetouredFabric(CabledFabric):
    """A fabric whose `between` gives the minimal paths alone; `with_detours` is the same with detours behind them.

    Every switch has the same number of hosts.
    """

    def __init__(
        self,
        cables: Sequence[Cable],
        switches: Sequence[str],
        hosts_per_switch: int,
        ranks_per_host: int,
        intra_host_rate: int,
    ) -> None:
        super().__init__(cables, len(switches) * hosts_per_switch, ranks_per_host, intra_host_rate)
        self.tiers = (tuple(switches),)
        self._hosts_per_switch = hosts_per_switch
        numbers = {name: number for number, name in enumerate(switches)}
        self._links: dict[tuple[int, int], list[int]] = {}
        for link, (_, src, dst, *_) in enumerate(self.links[: 2 * self.cables]):
            if src in numbers and dst in numbers:
                self._links.setdefault((numbers[src], numbers[dst]), []).append(link)
        self.between = cache(self._minimal)

    def leaf(self, host: int) -> int:
        return host // self._hosts_per_switch

    def _minimal(self, src: int, dst: int) -> tuple[Path, ...]:
        """Minimal ways from switch to switch."""
        raise NotImplementedError

    def _detours(self, src: int, dst: int) -> tuple[Path, ...]:
        """Other ways from switch to another switch."""
        raise NotImplementedError

    @cached_property
    def with_detours(self) -> "WithDetours":
        """The same fabric, whose ways are the minimal ones and then the detours."""
        return WithDetours(self, self.between, self._detours)


class WithDetours:
    """A fabric with detours, further paths between two distinct switches, behind its minimal paths."""

    def __init__(self, fabric: DetouredFabric, minimal: Ways, detours: Ways) -> None:
        self._fabric, self._minimal_ways, self._detours = fabric, minimal, detours
        self.between = cache(self._between)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fabric, name)

    def minimal(self, src: int, dst: int) -> int:
        """Number of minimal ways, which come first."""
        return len(self._minimal_ways(src, dst))

    def _between(self, src: int, dst: int) -> tuple[Path, ...]:
        ways = self._minimal_ways(src, dst)
        return ways if src == dst else ways + self._detours(src, dst)


def selected(candidates: Sequence[int], most: int, src: int, dst: int) -> Sequence[int]:
    """Evenly spaced candidates, at most so many; a hash of the two ends decides where they begin."""
    count = len(candidates)
    if count <= most:
        return candidates
    offset = mix(mix(src) + dst) % count
    return [candidates[(offset + place * count // most) % count] for place in range(most)]
