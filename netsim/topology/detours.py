"""Fabrics whose packets may take detours: the ways that detours add to the minimal ones."""

from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any

from netsim.draws import mix
from netsim.topology.cabled import Cable, CabledFabric
from netsim.topology.protocol import Path

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
        """See `netsim.topology.protocol.Topology`."""
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
