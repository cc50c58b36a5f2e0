"""Two-tier fabric: every leaf has a link, or several, to every spine, in each direction."""

from functools import cache
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from netsim.section import Section
from netsim.topology.buffer import SharedBufferConfig
from netsim.topology.link_errors import LinkErrorsConfig
from netsim.topology.failure import FailureConfig
from netsim.topology.protocol import Link, Path
from netsim.topology.queue import Queue
from netsim.topology.size import refuse_too_many
from netsim.units import Duration, Rate

PositiveRate = Annotated[Rate, Field(gt=0)]


class LeafSpineConfig(Section, frozen=True):
    """Section ``topology`` of kind ``leaf_spine``.

    Oversubscription is hosts_per_leaf * host_rate over the sum of a leaf's links up.

    Args:
        leaves: Number of leaf switches.
        spines: Number of spine switches.
        hosts_per_leaf: Hosts below a leaf; host h sits on leaf h // hosts_per_leaf.
        parallel: Links between a leaf and a spine; spines * parallel is the number of paths between two leaves.
        ranks_per_host: Ranks on a host; rank i sits on host i // ranks_per_host.
        host_rate: Rate of a host's link to its leaf, each direction.
        fabric_rate: Rate of a link between leaf and spine, each direction; a list gives the rate of each spine's links.
        intra_host_rate: Rate of the one directed link that all ranks of a host share to talk to each other.
        link_delay: Propagation delay of every link but the one inside a host, which has none.
        queue: Room for packets in front of a link, in bytes of unfinished work.
        buffer: Memory that all queues of a switch share, in place of `queue`.
        link_errors: Packets that are corrupted on cables.
        failures: Links and switches that fail.
    """

    kind: Literal["leaf_spine"]
    leaves: PositiveInt
    spines: PositiveInt
    hosts_per_leaf: PositiveInt
    parallel: PositiveInt = 1
    ranks_per_host: PositiveInt = 1
    host_rate: PositiveRate = 100 * 10**9
    fabric_rate: PositiveRate | tuple[PositiveRate, ...] = 100 * 10**9
    intra_host_rate: PositiveRate = 3600 * 10**9
    link_delay: Duration = 500 * 10**3
    queue: Queue = None
    buffer: SharedBufferConfig | None = None
    link_errors: LinkErrorsConfig | None = None
    failures: tuple[FailureConfig, ...] = ()

    @model_validator(mode="after")
    def _not_too_large(self) -> "LeafSpineConfig":
        refuse_too_many(self.leaves * (3 * self.hosts_per_leaf + 2 * self.spines * self.parallel))
        return self

    @model_validator(mode="after")
    def _a_rate_for_each_spine(self) -> "LeafSpineConfig":
        if isinstance(self.fabric_rate, tuple) and len(self.fabric_rate) != self.spines:
            rates = len(self.fabric_rate)
            raise ValueError(f"fabric_rate lists {rates} rates for {self.spines} spines; list one rate for each spine")
        return self


class LeafSpine:
    """The fabric of a `LeafSpineConfig`.

    Link indices: host to leaf, leaf to host, leaf to spine, spine to leaf, and the link inside each host.
    Way k between two leaves goes through spine k // parallel.
    """

    def __init__(self, config: LeafSpineConfig) -> None:
        self.hosts = config.leaves * config.hosts_per_leaf
        self.ranks_per_host = config.ranks_per_host
        self._leaves, self._hosts_per_leaf = config.leaves, config.hosts_per_leaf
        self._ways = config.spines * config.parallel
        self._leaf_spine = 2 * self.hosts
        self._spine_leaf = self._leaf_spine + config.leaves * self._ways
        self._inside = self._spine_leaf + config.leaves * self._ways
        hosts, leaves, ways = range(self.hosts), range(config.leaves), range(self._ways)
        edge = config.host_rate, config.link_delay
        rates = config.fabric_rate if isinstance(config.fabric_rate, tuple) else (config.fabric_rate,) * config.spines
        spines = [f"spine{spine}" for spine in range(config.spines)]
        self.tiers = (tuple(f"leaf{leaf}" for leaf in leaves), tuple(spines))

        def fabric(way: int, leaf: int, up: bool) -> Link:
            spine, cable = divmod(way, config.parallel)
            ends = (f"leaf{leaf}", spines[spine]) if up else (spines[spine], f"leaf{leaf}")
            name = "-".join(ends) + (f".{cable}" if config.parallel > 1 else "")
            return Link(name, *ends, rates[spine], config.link_delay)

        self.links = (
            *(Link(f"host{h}-leaf{self.leaf(h)}", f"host{h}", f"leaf{self.leaf(h)}", *edge) for h in hosts),
            *(Link(f"leaf{self.leaf(h)}-host{h}", f"leaf{self.leaf(h)}", f"host{h}", *edge) for h in hosts),
            *(fabric(way, leaf, up=True) for leaf in leaves for way in ways),
            *(fabric(way, leaf, up=False) for way in ways for leaf in leaves),
            *(Link(f"host{h}-inside", f"host{h}", f"host{h}", config.intra_host_rate, 0) for h in hosts),
        )
        self.between = cache(self._between)

    def leaf(self, host: int) -> int:
        """See `netsim.topology.protocol.Topology`, as for all that follows."""
        return host // self._hosts_per_leaf

    def up(self, host: int) -> int:
        """Link of the host's number."""
        return host

    def down(self, host: int) -> int:
        """Behind all links up."""
        return self.hosts + host

    def inside(self, host: int) -> int:
        """The last links."""
        return self._inside + host

    def reverse(self, link: int) -> int:
        """Leaf to spine lies by leaf, spine to leaf by way."""
        if link >= self._inside:
            return link
        if link < self._leaf_spine:
            return link + self.hosts if link < self.hosts else link - self.hosts
        if link < self._spine_leaf:
            leaf, way = divmod(link - self._leaf_spine, self._ways)
            return self._spine_leaf + way * self._leaves + leaf
        way, leaf = divmod(link - self._spine_leaf, self._leaves)
        return self._leaf_spine + leaf * self._ways + way

    def _between(self, src_leaf: int, dst_leaf: int) -> tuple[Path, ...]:
        if src_leaf == dst_leaf:
            return ((),)
        up = self._leaf_spine + src_leaf * self._ways
        return tuple((up + way, self._spine_leaf + way * self._leaves + dst_leaf) for way in range(self._ways))
