"""The routing's knowledge: which paths it takes as usable, over time."""

from bisect import bisect_right
from functools import cache, cached_property

from netsim.topology.detours import WithDetours
from netsim.topology.failure import Rates
from netsim.topology.protocol import Path, Topology, paths


class Routes:
    """The paths between hosts, and those among them that the routing takes as usable.

    Knowledge changes at a few moments, `times`; an interval between two of them is an epoch. If after the beginning all
    paths between two leaves are known to be down, all of them stay usable, as does a host's link, and traffic waits.
    """

    def __init__(self, topology: Topology, rates: Rates) -> None:
        self._topology, self._rates = topology, rates
        self._known = rates.known_down()
        self.times = [time for time, _ in self._known]
        self.paths = cache(self._paths)
        self.usable_ways = cache(self._usable_ways)

    @cached_property
    def with_detours(self) -> "Routes":
        """The same with the detours of the fabric; these routes where it has none."""
        fabric = getattr(self._topology, "with_detours", None)
        return self if fabric is None else Routes(fabric, self._rates)

    def minimal(self, src_leaf: int, dst_leaf: int) -> int:
        """Number of minimal ways, which come first."""
        if isinstance(self._topology, WithDetours):
            return self._topology.minimal(src_leaf, dst_leaf)
        return len(self._topology.between(src_leaf, dst_leaf))

    @property
    def topology(self) -> Topology:
        """The fabric."""
        return self._topology

    def epoch(self, now_ps: int) -> int:
        """Number of the epoch at a moment."""
        return bisect_right(self.times, now_ps) - 1

    def usable(self, src: int, dst: int, epoch: int = 0) -> tuple[int, ...]:
        """Indices of the usable paths; empty only if there is none at the beginning."""
        topology, down = self._topology, self._known[epoch][1]
        ends = (topology.inside(src),) if src == dst else (topology.up(src), topology.down(dst))
        if not epoch and down.intersection(ends):
            return ()
        return self.usable_ways(topology.leaf(src), topology.leaf(dst), epoch)

    def _paths(self, src: int, dst: int) -> tuple[Path, ...]:
        """All paths from host to host, failures aside."""
        return paths(self._topology, src, dst)

    def _usable_ways(self, src_leaf: int, dst_leaf: int, epoch: int) -> tuple[int, ...]:
        """The same between leaves: their indices are those of the paths."""
        down = self._known[epoch][1]
        ways = self._topology.between(src_leaf, dst_leaf)
        good = tuple(index for index, way in enumerate(ways) if not down.intersection(way))
        return good if good or not epoch else tuple(range(len(ways)))
