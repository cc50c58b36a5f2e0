"""Hosts of several adapters, and links of their GPUs: their keys, and which hosts of the protocol they are."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from netsim.topology.cabled import Cable
from netsim.topology.protocol import GpuLinks


class HasMachines(Protocol):
    """The keys of a section ``topology`` about hosts; see `netsim.topology.leaf_spine.LeafSpineConfig`."""

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
    """A section as it is written; with several adapters the GPUs are as many and have links of their own."""
    if isinstance(values, dict) and values.get("adapters_per_host", 1) not in (1, None):
        return {"ranks_per_host": values["adapters_per_host"], "gpu_link_rate": "3600Gbps"} | values
    return values


def refuse_misfit(config: HasMachines, leaves: int, name: str) -> None:
    """Refuses adapters that ranks do not fit, or `leaves`, called `name`, that are divided into groups of rails."""
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
    """How many hosts of the protocol a machine is: its adapters, and its GPUs if they have links of their own."""
    return config.adapters_per_host + (0 if config.gpu_link_rate is None else config.ranks_per_host)


class Machines:
    """The machines of a fabric, `per_leaf` on a leaf, or with rails on as many leaves as a machine has adapters.

    Adapters are hosts of the protocol, and so are the ends of the links of GPUs, behind all adapters; the switches
    inside machines are leaves behind those of the network.
    """

    def __init__(self, config: HasMachines, machines: int, per_leaf: int, leaves: Sequence[str]) -> None:
        self._config, self._per_leaf, self._first_inner = config, per_leaf, len(leaves)
        self._adapters = machines * config.adapters_per_host
        has_gpu_links = config.gpu_link_rate is not None
        self.hosts = machines * ends_of(config)
        """Hosts of the protocol."""
        self.ranks_per_host = config.ranks_per_host // config.adapters_per_host
        """Ranks of an adapter."""
        self.gpus = GpuLinks(self._adapters, config.ranks_per_host) if has_gpu_links else None
        """See `netsim.topology.protocol.gpu_links`."""
        inner = (f"host{machine}.switch" for machine in range(machines if has_gpu_links else 0))
        self.leaves = (*leaves, *inner)
        """Names of all leaves."""

    def leaf(self, host: int) -> int:
        """The leaf of a host of the protocol."""
        config = self._config
        if host >= self._adapters:
            return self._first_inner + (host - self._adapters) // config.ranks_per_host
        machine, adapter = divmod(host, config.adapters_per_host)
        pod = machine // self._per_leaf
        return pod * config.adapters_per_host + adapter if config.rails else pod

    def cables(self) -> Iterator[Cable]:
        """The cable of each host of the protocol, to its leaf."""
        config = self._config
        for host in range(self._adapters):
            machine, adapter = divmod(host, config.adapters_per_host)
            name = f"host{machine}" if config.adapters_per_host == 1 else f"host{machine}.{adapter}"
            yield Cable(name, self.leaves[self.leaf(host)], config.host_rate, config.link_delay)
        for host in range(self._adapters, self.hosts):
            machine, gpu = divmod(host - self._adapters, config.ranks_per_host)
            inner, rate = self.leaves[self.leaf(host)], config.gpu_link_rate or 0
            yield Cable(f"host{machine}.gpu{gpu}", inner, rate, config.gpu_link_delay)
