"""The protocol of a fabric: directed links, and the paths between hosts."""

from collections import Counter
from typing import NamedTuple, Protocol

Path = tuple[int, ...]


class Link(NamedTuple):
    """One direction of a cable, with the output queue in front of it."""

    name: str  # name in reports, unique in the fabric
    src: str  # node whose output it is: a host or a switch
    dst: str  # node it leads to; for the link inside a host the host itself
    rate_bps: int  # bits per second
    delay_ps: int  # propagation delay in picoseconds


class GpuLinks(NamedTuple):
    """Links between the GPUs of machines: each rank has a link of its own to a switch inside its machine."""

    first: int  # the topology's host that ends the link of the first GPU; the others follow in the order of the places
    per_machine: int  # GPUs of a machine, each a rank


class Topology(Protocol):
    """A fabric. Links are numbered by their index in `links`, hosts 0..hosts-1, first switches 0..leaves-1.

    A host has one cable, to its leaf, and one link inside that its ranks share. A path between two hosts is the
    sender's link up, one of the routes between their leaves, and the receiver's link down.

    A machine of several adapters is as many hosts. Its GPUs are hosts too, numbered after all adapters. Their leaf is
    the switch inside the machine, and no route joins them to other leaves.
    """

    @property
    def links(self) -> tuple[Link, ...]:
        """All directed links."""
        ...

    @property
    def hosts(self) -> int:
        """Number of hosts; they are called host0, host1, ..."""
        ...

    @property
    def ranks_per_host(self) -> int:
        """Number of ranks that share a host."""
        ...

    @property
    def tiers(self) -> tuple[tuple[str, ...], ...]:
        """Names of the switches, tier by tier from the leaves up, in the order in which they are drawn."""
        ...

    def leaf(self, host: int) -> int:
        """The first switch of a host, by its place in the lowest tier."""
        ...

    def up(self, host: int) -> int:
        """The link from a host to its leaf."""
        ...

    def down(self, host: int) -> int:
        """The link from its leaf to a host."""
        ...

    def inside(self, host: int) -> int:
        """The link between the ranks of a host."""
        ...

    def between(self, src_leaf: int, dst_leaf: int) -> tuple[Path, ...]:
        """All routes from one leaf to another in a fixed order, as link indices; one empty route from a leaf to itself.

        Routes of one pair of leaves have the same number of links. No route between two leaves: an empty tuple.
        """
        ...

    def reverse(self, link: int) -> int:
        """The other direction of the same cable; the link inside a host is its own."""
        ...


def gpu_links(topology: Topology) -> GpuLinks | None:
    """The links between the GPUs of machines; None where the ranks of a host share one link inside it."""
    return getattr(topology, "gpus", None)


def adapters_of(topology: Topology) -> int:
    """Number of adapters of a machine; each is a host of the topology, and a machine's adapters are consecutive."""
    gpus = gpu_links(topology)
    return 1 if gpus is None else gpus.per_machine // topology.ranks_per_host


def network_tiers(topology: Topology) -> tuple[tuple[str, ...], ...]:
    """`Topology.tiers` without the switches inside machines, which are behind the leaves."""
    leaves, *others = topology.tiers
    return (tuple(name for name in leaves if not name.startswith("host")), *others)


def places(topology: Topology) -> list[int]:
    """Place of each host among the hosts of its leaf."""
    seen: Counter[int] = Counter()
    place_by_host = []
    for host in range(topology.hosts):
        leaf = topology.leaf(host)
        place_by_host.append(seen[leaf])
        seen[leaf] += 1
    return place_by_host


def sources(topology: Topology) -> list[int]:
    """Number of the node at which each link begins; the nodes are numbered from 0 in the order of their first links."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(link.src, len(numbers)) for link in topology.links]


def paths(topology: Topology, src: int, dst: int) -> tuple[Path, ...]:
    """All paths from host `src` to host `dst`, failures aside, in the order of `Topology.between`."""
    if src == dst:
        return ((topology.inside(src),),)
    up, down = topology.up(src), topology.down(dst)
    return tuple((up, *route, down) for route in topology.between(topology.leaf(src), topology.leaf(dst)))
