"""Dragonfly: groups of switches with a link between each two of a group, and links between each two groups."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from netsim.foundation.settings import Section
from netsim.foundation.units import Duration, Rate
from netsim.topology.cabled import Cable, DetouredFabric, selected
from netsim.topology.failure import FailureConfig
from netsim.topology.keys import LinkErrorsConfig, Queue, RanksPerHost, SharedBufferConfig, refuse_too_many
from netsim.topology.protocol import Path

PositiveRate = Annotated[Rate, Field(gt=0)]


class DragonflyConfig(Section):
    """Section ``topology`` of kind ``dragonfly``.

    A dragonfly is balanced where switches_per_group = 2 hosts_per_switch = 2 global_links.

    Args:
        switches_per_group: Number of switches of a group, each with a link to every other switch of its group.
        hosts_per_switch: Hosts at a switch; host h sits at switch h // hosts_per_switch.
        global_links: Number of links from a switch to other groups.
        groups: Number of groups. null: the largest number, switches_per_group * global_links + 1, with one link between
            any two groups. With fewer groups any two have as many links as fit, and the links that are left over do not
            exist.
        ranks_per_host: Ranks on a host; rank i sits on host i // ranks_per_host.
        host_rate: Rate of a host's link, each direction.
        local_rate: Rate of a link inside a group, each direction.
        global_rate: Rate of a link between groups, each direction.
        intra_host_rate: Rate of the one directed link that all ranks of a host share to talk to each other.
        link_delay: Propagation delay of links to hosts and inside groups.
        global_delay: Propagation delay of links between groups.
        max_detours: Largest number of non-minimal routes between two switches, for the transports valiant and ugal.
        queue: Capacity of the queue of a switch's link, in bytes that the link has still to send.
        buffer: Memory that all queues of a switch share, in place of `queue`.
        link_errors: Packets that are corrupted on cables.
        failures: Links and switches that fail.
    """

    kind: Literal["dragonfly"]
    switches_per_group: PositiveInt
    hosts_per_switch: PositiveInt
    global_links: PositiveInt
    groups: Annotated[int, Field(ge=2)] | None = None
    ranks_per_host: RanksPerHost = 1
    host_rate: PositiveRate = 100 * 10**9
    local_rate: PositiveRate = 100 * 10**9
    global_rate: PositiveRate = 100 * 10**9
    intra_host_rate: PositiveRate = 3600 * 10**9
    link_delay: Duration = 500 * 10**3
    global_delay: Duration = 500 * 10**3
    max_detours: PositiveInt = 64
    queue: Queue = None
    buffer: SharedBufferConfig | None = None
    link_errors: LinkErrorsConfig | None = None
    failures: tuple[FailureConfig, ...] = ()

    @property
    def all_groups(self) -> int:
        """Number of groups."""
        return self.groups or self.switches_per_group * self.global_links + 1

    @property
    def links_between_groups(self) -> int:
        """Number of links between two groups."""
        return self.switches_per_group * self.global_links // (self.all_groups - 1)

    @model_validator(mode="after")
    def _fits(self) -> "DragonflyConfig":
        most = self.switches_per_group * self.global_links + 1
        if self.all_groups > most:
            raise ValueError(f"{self.all_groups} groups have no link each to each other; take at most {most}")
        switches = self.all_groups * self.switches_per_group
        local = switches * (self.switches_per_group - 1)
        between = self.all_groups * (self.all_groups - 1) * self.links_between_groups
        refuse_too_many(3 * switches * self.hosts_per_switch + local + between)
        return self

    def build(self) -> "Dragonfly":
        """The fabric of the section."""
        return Dragonfly(self)


class Dragonfly(DetouredFabric):
    """The fabric of a `DragonflyConfig`.

    Switch s of group g is called group<g>switch<s>. A group numbers its links to others through its switches, `global_
    links` each; link r (G - 1) + d - 1 leads to the group d places on, of G, where it is number r (G - 1) + G - d - 1.

    A minimal route has one link between groups, with at most one link inside a group at either end; inside a group it
    is the link between the two switches. A detour has another group, or inside a group another switch, on its way.

    Kim, Dally, Scott, Abts: Technology-Driven, Highly-Scalable Dragonfly Topology, ISCA 2008.
    """

    def __init__(self, config: DragonflyConfig) -> None:
        self._config, self._size, self._groups = config, config.switches_per_group, config.all_groups
        names = [f"group{group}switch{switch}" for group in range(self._groups) for switch in range(self._size)]
        hosts = range(len(names) * config.hosts_per_switch)
        at_hosts = [
            Cable(f"host{host}", names[host // config.hosts_per_switch], config.host_rate, config.link_delay)
            for host in hosts
        ]
        cables = [*at_hosts, *self._local(names), *self._global(names)]
        super().__init__(cables, names, config.hosts_per_switch, config.ranks_per_host, config.intra_host_rate)

    def _local(self, names: list[str]) -> Iterator[Cable]:
        for first in range(0, len(names), self._size):
            for one in range(first, first + self._size):
                for other in range(one + 1, first + self._size):
                    yield Cable(names[one], names[other], self._config.local_rate, self._config.link_delay)

    def _global(self, names: list[str]) -> Iterator[Cable]:
        rate, delay = self._config.global_rate, self._config.global_delay
        for group in range(self._groups):
            for other in range(group + 1, self._groups):
                for number, (out, into) in enumerate(self._joints(group, other)):
                    suffix = f".{number}" if self._twice(group, other) else ""
                    yield Cable(names[out], names[into], rate, delay, suffix)

    def _twice(self, group: int, other: int) -> bool:
        """Whether two groups have links between the same two switches."""
        joints = self._joints(group, other)
        return len(set(joints)) < len(joints)

    def _joints(self, group: int, other: int) -> list[tuple[int, int]]:
        """Switches at the ends of the links from one group to another."""
        others, each = self._groups - 1, self._config.global_links
        distance = (other - group) % self._groups
        numbers = (
            (turn * others + distance - 1, turn * others + self._groups - distance - 1)
            for turn in range(self._config.links_between_groups)
        )
        return [(group * self._size + out // each, other * self._size + back // each) for out, back in numbers]

    def _across(self, group: int, other: int) -> list[tuple[int, int, int]]:
        """Links from one group to another with the switches at their ends."""
        taken: dict[tuple[int, int], int] = {}
        across = []
        for ends in self._joints(group, other):
            turn = taken[ends] = taken.get(ends, -1) + 1
            across.append((*ends, self._links[ends][turn]))
        return across

    def _inside(self, src: int, dst: int) -> Path:
        """The route between two switches of one group."""
        return () if src == dst else (self._links[src, dst][0],)

    def _minimal(self, src: int, dst: int) -> tuple[Path, ...]:
        group, other = src // self._size, dst // self._size
        if group == other:
            return (self._inside(src, dst),)
        return tuple(
            (*self._inside(src, out), link, *self._inside(into, dst)) for out, into, link in self._across(group, other)
        )

    def _detours(self, src: int, dst: int) -> tuple[Path, ...]:
        group, other, most = src // self._size, dst // self._size, self._config.max_detours
        if group == other:
            first = group * self._size
            through = [switch for switch in range(first, first + self._size) if switch not in (src, dst)]
            return tuple((*self._inside(src, s), *self._inside(s, dst)) for s in selected(through, most, src, dst))
        routes = []
        for via in selected([g for g in range(self._groups) if g not in (group, other)], most, src, dst):
            for (out, into, link), (leave, enter, last) in zip(
                self._across(group, via), self._across(via, other), strict=True
            ):
                middle = self._inside(into, leave)
                routes.append((*self._inside(src, out), link, *middle, last, *self._inside(enter, dst)))
        return tuple(routes[place] for place in selected(range(len(routes)), most, src, dst))
