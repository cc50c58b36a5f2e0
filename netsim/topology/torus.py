"""Torus: switches on a grid of any number of dimensions whose ends are joined."""

from collections.abc import Iterator, Sequence
from itertools import islice, permutations, product
from math import prod
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from netsim.foundation.settings import Section
from netsim.foundation.units import Duration, Rate
from netsim.topology.cabled import Cable, DetouredFabric, selected
from netsim.topology.failure import FailureConfig
from netsim.topology.keys import LinkErrorsConfig, Queue, RanksPerHost, SharedBufferConfig, refuse_too_many
from netsim.topology.protocol import Path

PositiveRate = Annotated[Rate, Field(gt=0)]


class TorusConfig(Section):
    """Section ``topology`` of kind ``torus``.

    Args:
        dims: Number of switches in each dimension; a dimension of two has one link between its switches.
        hosts_per_switch: Hosts at a switch; host h sits at switch h // hosts_per_switch, and the last coordinate of
            switches counts fastest.
        ranks_per_host: Ranks on a host; rank i sits on host i // ranks_per_host.
        host_rate: Rate of a host's link, each direction.
        fabric_rate: Rate of a link between switches, each direction.
        intra_host_rate: Rate of the one directed link that all ranks of a host share to talk to each other.
        link_delay: Propagation delay of every link but the one inside a host, which has none.
        max_paths: Largest number of minimal routes between two switches.
        max_detours: Largest number of non-minimal routes between two switches, for the transports valiant and ugal.
        queue: Capacity of the queue of a switch's link, in bytes that the link has still to send.
        buffer: Memory that all queues of a switch share, in place of `queue`.
        link_errors: Packets that are corrupted on cables.
        failures: Links and switches that fail.
    """

    kind: Literal["torus"]
    dims: Annotated[tuple[Annotated[int, Field(ge=2, le=4096)], ...], Field(min_length=1, max_length=6)]
    hosts_per_switch: PositiveInt = 1
    ranks_per_host: RanksPerHost = 1
    host_rate: PositiveRate = 100 * 10**9
    fabric_rate: PositiveRate = 100 * 10**9
    intra_host_rate: PositiveRate = 3600 * 10**9
    link_delay: Duration = 500 * 10**3
    max_paths: PositiveInt = 64
    max_detours: PositiveInt = 64
    queue: Queue = None
    buffer: SharedBufferConfig | None = None
    link_errors: LinkErrorsConfig | None = None
    failures: tuple[FailureConfig, ...] = ()

    @model_validator(mode="after")
    def _not_too_large(self) -> "TorusConfig":
        refuse_too_many(prod(self.dims) * (3 * self.hosts_per_switch + 2 * len(self.dims)))
        longest = sum(size // 2 for size in self.dims)
        if longest > _MOST_LINKS:
            raise ValueError(
                f"two switches are up to {longest} links apart; take shorter dims, {_MOST_LINKS} are possible"
            )
        return self

    def build(self) -> "Torus":
        """The fabric of the section."""
        return Torus(self)


_MOST_LINKS = 120
"""Most links of a minimal route, so that a detour has fewer than 256."""


class Torus(DetouredFabric):
    """The fabric of a `TorusConfig`; the switch at (1, 0, 2) is called switch1-0-2.

    A minimal route goes the shorter way round in each dimension, one dimension after the other, in any order of the
    dimensions; halfway round both directions are minimal. A detour goes in order of the dimensions to some other switch
    and from there to its end.

    Valiant, Brebner: Universal schemes for parallel communication, STOC 1981.
    """

    def __init__(self, config: TorusConfig) -> None:
        self._config, self._dims = config, config.dims
        self._switches = list(product(*map(range, config.dims)))
        self._number = {at: number for number, at in enumerate(self._switches)}
        names = ["switch" + "-".join(map(str, at)) for at in self._switches]
        at_hosts = (
            Cable(f"host{host}", names[host // config.hosts_per_switch], config.host_rate, config.link_delay)
            for host in range(len(names) * config.hosts_per_switch)
        )
        between = (
            Cable(
                names[number],
                names[self._number[_moved(at, axis, 1, config.dims)]],
                config.fabric_rate,
                config.link_delay,
            )
            for number, at in enumerate(self._switches)
            for axis, size in enumerate(config.dims)
            if size > 2 or not at[axis]
        )
        cables = [*at_hosts, *between]
        super().__init__(cables, names, config.hosts_per_switch, config.ranks_per_host, config.intra_host_rate)

    def _minimal(self, src: int, dst: int) -> tuple[Path, ...]:
        at, to = self._switches[src], self._switches[dst]
        differing = [axis for axis in range(len(at)) if at[axis] != to[axis]]
        paths: dict[Path, None] = {}
        for signs in product(*(_directions(at[axis], to[axis], self._dims[axis]) for axis in differing)):
            steps = dict(zip(differing, signs, strict=True))
            for order in islice(permutations(differing), self._config.max_paths):
                paths[self._walk(src, [(axis, *steps[axis]) for axis in order])] = None
        routes = list(paths)
        return tuple(routes[place] for place in selected(range(len(routes)), self._config.max_paths, src, dst))

    def _straight(self, src: int, dst: int) -> Path:
        """The minimal route in order of the dimensions; halfway round it goes up."""
        at, to = self._switches[src], self._switches[dst]
        differing = [axis for axis in range(len(at)) if at[axis] != to[axis]]
        return self._walk(src, [(axis, *_directions(at[axis], to[axis], self._dims[axis])[0]) for axis in differing])

    def _walk(self, src: int, legs: Sequence[tuple[int, int, int]]) -> Path:
        """Links of legs, each along an axis, in a direction, for so many steps."""
        return tuple(self._links[step][0] for step in self._steps(src, legs))

    def _steps(self, src: int, legs: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
        at = self._switches[src]
        for axis, sign, count in legs:
            for _ in range(count):
                following = _moved(at, axis, sign, self._dims)
                yield self._number[at], self._number[following]
                at = following

    def _detours(self, src: int, dst: int) -> tuple[Path, ...]:
        via = [switch for switch in range(len(self._switches)) if switch not in (src, dst)]
        chosen = selected(via, self._config.max_detours, src, dst)
        return tuple(self._straight(src, switch) + self._straight(switch, dst) for switch in chosen)


def _moved(at: tuple[int, ...], axis: int, sign: int, dims: Sequence[int]) -> tuple[int, ...]:
    """The coordinates one step further along an axis."""
    return (*at[:axis], (at[axis] + sign) % dims[axis], *at[axis + 1 :])


def _directions(here: int, there: int, size: int) -> list[tuple[int, int]]:
    """Directions of the shortest route along a dimension, each with its number of steps."""
    up = (there - here) % size
    down = size - up
    both = [(1, up), (-1, down)]
    if up == down:
        return both[:1] if size == 2 else both
    return both[:1] if up < down else both[1:]
