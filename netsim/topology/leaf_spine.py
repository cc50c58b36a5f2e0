"""Two-tier fabric: every leaf has one link to every spine, in each direction."""

from functools import cache
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from netsim.section import Section
from netsim.topology.protocol import Link, Path
from netsim.units import Duration, Rate, format_size, parse_size


def _only_unlimited(value: object) -> object:
    if value != "unlimited":
        room = format_size(parse_size(value))
        raise ValueError(f"a queue of {room} is not built yet; use unlimited")
    return value


def _no_failures(value: object) -> object:
    if value:
        raise ValueError("link failures are not built yet; remove them or write []")
    return value


class LeafSpineConfig(Section, frozen=True):
    """Section ``topology`` of kind ``leaf_spine``.

    Args:
        leaves: Number of leaf switches.
        spines: Number of spine switches, which is the number of paths between two leaves.
        hosts_per_leaf: Hosts below a leaf; host h sits on leaf h // hosts_per_leaf.
        ranks_per_host: Ranks on a host; rank i sits on host i // ranks_per_host.
        host_rate: Rate of a host's link to its leaf, each direction.
        fabric_rate: Rate of a link between leaf and spine, each direction.
        intra_host_rate: Rate of the one directed link that all ranks of a host share to talk to each other.
        link_delay: Propagation delay of every link but the one inside a host, which has none.
        queue: Room for packets in front of a link.
        failures: Links that fail.
    """

    kind: Literal["leaf_spine"]
    leaves: PositiveInt
    spines: PositiveInt
    hosts_per_leaf: PositiveInt
    ranks_per_host: PositiveInt = 1
    host_rate: Annotated[Rate, Field(gt=0)] = 100 * 10**9
    fabric_rate: Annotated[Rate, Field(gt=0)] = 100 * 10**9
    intra_host_rate: Annotated[Rate, Field(gt=0)] = 3600 * 10**9
    link_delay: Duration = 500 * 10**3
    queue: Annotated[Literal["unlimited"], BeforeValidator(_only_unlimited)] = "unlimited"
    failures: Annotated[tuple[()], BeforeValidator(_no_failures)] = ()


class LeafSpine:
    """The fabric of a `LeafSpineConfig`.

    Link indices: host to leaf, leaf to host, leaf to spine, spine to leaf, and the link inside each host.
    Path k between two leaves goes through spine k.
    """

    def __init__(self, config: LeafSpineConfig) -> None:
        self.hosts = config.leaves * config.hosts_per_leaf
        self.ranks_per_host = config.ranks_per_host
        self._leaves, self._spines, self._hosts_per_leaf = config.leaves, config.spines, config.hosts_per_leaf
        self._down = self.hosts
        self._leaf_spine = 2 * self.hosts
        self._spine_leaf = self._leaf_spine + config.leaves * config.spines
        self._inside = self._spine_leaf + config.spines * config.leaves
        hosts, leaves, spines = range(self.hosts), range(config.leaves), range(config.spines)
        edge, fabric = (config.host_rate, config.link_delay), (config.fabric_rate, config.link_delay)
        self.links = (
            *(Link(f"host{h}-leaf{self.leaf(h)}", *edge) for h in hosts),
            *(Link(f"leaf{self.leaf(h)}-host{h}", *edge) for h in hosts),
            *(Link(f"leaf{leaf}-spine{spine}", *fabric) for leaf in leaves for spine in spines),
            *(Link(f"spine{spine}-leaf{leaf}", *fabric) for spine in spines for leaf in leaves),
            *(Link(f"host{h}-inside", config.intra_host_rate, 0) for h in hosts),
        )
        self.paths = cache(self._paths)

    def leaf(self, host: int) -> int:
        """The leaf switch of a host."""
        return host // self._hosts_per_leaf

    def _paths(self, src: int, dst: int) -> tuple[Path, ...]:
        if src == dst:
            return ((self._inside + src,),)
        up, down = src, self._down + dst
        src_leaf, dst_leaf = self.leaf(src), self.leaf(dst)
        if src_leaf == dst_leaf:
            return ((up, down),)
        return tuple(
            (
                up,
                self._leaf_spine + src_leaf * self._spines + spine,
                self._spine_leaf + spine * self._leaves + dst_leaf,
                down,
            )
            for spine in range(self._spines)
        )
