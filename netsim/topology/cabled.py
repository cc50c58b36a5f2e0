"""Fabrics that number links by cable, those of hosts first; detours beside minimal paths; hosts of several adapters."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple, Protocol

from netsim.draws import mix
from netsim.topology.protocol import GpuLinks, Link, Path


class Cable(NamedTuple):
    """Two links, one in each direction; a host's cable begins at the host. Parallel cables have suffixes, as ``.1``."""

    first: str
    second: str
    rate_bps: int
    delay_ps: int
    suffix: str = ""


class CabledFabric:
    """A fabric of cables with a link in each direction: c and len(cables) + c of cable c; links inside hosts are last.

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
        """The link back on the host's cable."""
        return self.cables + host

    def inside(self, host: int) -> int:
        """Links inside hosts follow the links of all cables."""
        return 2 * self.cables + host

    def reverse(self, link: int) -> int:
        """The link of the other direction; a link inside a host is its own."""
        if link >= 2 * self.cables:
            return link
        return link + self.cables if link < self.cables else link - self.cables


Routes = Callable[[int, int], tuple[Path, ...]]


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
        """Minimal routes from switch to switch."""
        raise NotImplementedError

    def _detours(self, src: int, dst: int) -> tuple[Path, ...]:
        """Other routes from switch to another switch."""
        raise NotImplementedError

    @cached_property
    def with_detours(self) -> "WithDetours":
        """The fabric with all routes: first the minimal routes, then the detours."""
        return WithDetours(self, self.between, self._detours)


class WithDetours:
    """A fabric with detours, further paths between two distinct switches, behind its minimal paths."""

    def __init__(self, fabric: DetouredFabric, minimal: Routes, detours: Routes) -> None:
        self._fabric, self._minimal_routes, self._detours = fabric, minimal, detours
        self.between = cache(self._between)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fabric, name)

    def minimal(self, src: int, dst: int) -> int:
        """Number of minimal routes, which come first."""
        return len(self._minimal_routes(src, dst))

    def _between(self, src: int, dst: int) -> tuple[Path, ...]:
        routes = self._minimal_routes(src, dst)
        return routes if src == dst else routes + self._detours(src, dst)


def selected(candidates: Sequence[int], most: int, src: int, dst: int) -> Sequence[int]:
    """At most `most` candidates, evenly spaced; a hash of the two ends decides where they begin."""
    count = len(candidates)
    if count <= most:
        return candidates
    offset = mix(mix(src) + dst) % count
    return [candidates[(offset + place * count // most) % count] for place in range(most)]


class HasMachines(Protocol):
    """The keys of a section ``topology`` about hosts."""

    @property
    def adapters_per_host(self) -> int: ...
    @property
    def rails(self) -> bool: ...
    @property
    def gpu_link_rate(self) -> int | None: ...
    @property
    def gpu_link_delay(self) -> int: ...
    @property
    def ranks_per_host(self) -> int: ...
    @property
    def host_rate(self) -> int: ...
    @property
    def link_delay(self) -> int: ...


def with_defaults(values: Any) -> Any:
    """Adds defaults to a section: with several adapters, as many GPUs, and a link for each GPU."""
    if isinstance(values, dict) and values.get("adapters_per_host", 1) not in (1, None):
        return {"ranks_per_host": values["adapters_per_host"], "gpu_link_rate": "3600Gbps"} | values
    return values


def refuse_misfit(config: HasMachines, leaves: int, name: str) -> None:
    """Refuses ranks that do not divide among adapters, and `leaves`, called `name`, that do not divide into rails."""
    adapters = config.adapters_per_host
    if config.ranks_per_host % adapters:
        problem = f"{config.ranks_per_host} ranks of a host do not share {adapters} adapters evenly"
        raise ValueError(f"{problem}; give a multiple of {adapters} as ranks_per_host")
    if adapters > 1 and config.gpu_link_rate is None:
        raise ValueError("hosts of several adapters need links between GPUs; give gpu_link_rate, or leave it out")
    if config.rails and adapters == 1:
        raise ValueError("rails need several adapters a host; set adapters_per_host, or leave rails out")
    if config.rails and leaves % adapters:
        problem = f"{leaves} {name} do not make pods of {adapters} rails"
        raise ValueError(f"{problem}; give a multiple of {adapters} {name}")


def ends_of(config: HasMachines) -> int:
    """How many hosts of `Topology` a machine is: its adapters, and its GPUs if each has a link of its own."""
    return config.adapters_per_host + (0 if config.gpu_link_rate is None else config.ranks_per_host)


class Machines:
    """The machines of a fabric, `per_leaf` on a leaf, or with rails on as many leaves as a machine has adapters.

    Adapters are hosts of `Topology`. GPUs with links are hosts, too, numbered after all adapters. The switches inside
    machines are leaves, numbered after the leaves of the network.
    """

    def __init__(self, config: HasMachines, machines: int, per_leaf: int, leaves: Sequence[str]) -> None:
        self._config, self._per_leaf, self._first_inner = config, per_leaf, len(leaves)
        self._adapters = machines * config.adapters_per_host
        has_gpu_links = config.gpu_link_rate is not None
        self.hosts = machines * ends_of(config)
        """Hosts as `Topology` counts them."""
        self.ranks_per_host = config.ranks_per_host // config.adapters_per_host
        """Ranks per adapter."""
        self.gpus = GpuLinks(self._adapters, config.ranks_per_host) if has_gpu_links else None
        """Ends of the links of GPUs; None if they have none."""
        inner = (f"host{machine}.switch" for machine in range(machines if has_gpu_links else 0))
        self.leaves = (*leaves, *inner)
        """Names of all leaves."""

    def leaf(self, host: int) -> int:
        """The leaf of a host of `Topology`."""
        config = self._config
        if host >= self._adapters:
            return self._first_inner + (host - self._adapters) // config.ranks_per_host
        machine, adapter = divmod(host, config.adapters_per_host)
        pod = machine // self._per_leaf
        return pod * config.adapters_per_host + adapter if config.rails else pod

    def cables(self) -> Iterator[Cable]:
        """The cable of each host of `Topology`, to its leaf."""
        config = self._config
        for host in range(self._adapters):
            machine, adapter = divmod(host, config.adapters_per_host)
            name = f"host{machine}" if config.adapters_per_host == 1 else f"host{machine}.{adapter}"
            yield Cable(name, self.leaves[self.leaf(host)], config.host_rate, config.link_delay)
        for host in range(self._adapters, self.hosts):
            machine, gpu = divmod(host - self._adapters, config.ranks_per_host)
            inner, rate = self.leaves[self.leaf(host)], config.gpu_link_rate or 0
            yield Cable(f"host{machine}.gpu{gpu}", inner, rate, config.gpu_link_delay)
