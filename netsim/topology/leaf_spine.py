"""Two-tier fabric: every leaf has a link, or several, to every spine, in each direction."""

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from netsim.foundation.settings import Section
from netsim.foundation.units import Duration, Rate
from netsim.topology.cabled import Machines, ends_of, refuse_misfit, with_defaults
from netsim.topology.failure import FailureConfig
from netsim.topology.keys import LinkErrorsConfig, Queue, RanksPerHost, SharedBufferConfig, refuse_too_many
from netsim.topology.protocol import Link, Path

PositiveRate = Annotated[Rate, Field(gt=0)]


class LeafSpineConfig(Section):
    """Section ``topology`` of kind ``leaf_spine``.

    Oversubscription is hosts_per_leaf * host_rate over the sum of a leaf's links up.

    With gpu_link_rate, or several adapters a host, each rank is a GPU with a link of its own to a switch inside its
    host, which carries all traffic between ranks of the host and loses nothing. Traffic to another host leaves by the
    adapter of the sending GPU and comes in by the adapter of the receiving GPU. The GPUs of a host share its adapters
    evenly: neighbours use the same adapter.

    Args:
        leaves: Number of leaf switches.
        spines: Number of spine switches.
        hosts_per_leaf: Number of hosts below a leaf; host h sits on leaf h // hosts_per_leaf. With rails, number of
            hosts of a pod.
        adapters_per_host: Adapters of a host, each with a link of host_rate to a leaf.
        rails: Whether adapters_per_host leaves form a pod: adapter i of every host of a pod has its link to leaf i of
            the pod.
        gpu_link_rate: Rate of a GPU's link inside its host, each direction; with several adapters 3600Gbps if absent.
        gpu_link_delay: Propagation delay of a GPU's link, to the switch inside its host or from it.
        calibration: File of measured times that collectives inside a host take in place of sending messages: written by
            `python -m netsim calibrate`, or shipped, such as h100.
        parallel: Links between a leaf and a spine; spines * parallel is the number of paths between two leaves.
        ranks_per_host: Ranks on a host; rank i sits on host i // ranks_per_host. As many as adapters if absent.
        host_rate: Rate of a host's link to its leaf, each direction.
        fabric_rate: Rate of a link between leaf and spine, each direction; a list gives the rate of each spine's links.
        intra_host_rate: Rate of the one directed link that all ranks of a host share to talk to each other, if no GPU
            has a link of its own.
        link_delay: Propagation delay of every link but the one inside a host, which has none.
        queue: Capacity of the queue of a switch's link, in bytes that the link has still to send.
        buffer: Memory that all queues of a switch share, in place of `queue`.
        link_errors: Packets that are corrupted on cables.
        failures: Links and switches that fail.
    """

    kind: Literal["leaf_spine"]
    leaves: PositiveInt
    spines: PositiveInt
    hosts_per_leaf: PositiveInt
    parallel: PositiveInt = 1
    adapters_per_host: PositiveInt = 1
    rails: bool = False
    gpu_link_rate: PositiveRate | None = None
    gpu_link_delay: Duration = 250 * 10**3
    calibration: str | None = None
    ranks_per_host: RanksPerHost = 1
    host_rate: PositiveRate = 100 * 10**9
    fabric_rate: PositiveRate | tuple[PositiveRate, ...] = 100 * 10**9
    intra_host_rate: PositiveRate = 3600 * 10**9
    link_delay: Duration = 500 * 10**3
    queue: Queue = None
    buffer: SharedBufferConfig | None = None
    link_errors: LinkErrorsConfig | None = None
    failures: tuple[FailureConfig, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _of_several_adapters(cls, values: Any) -> Any:
        return with_defaults(values)

    @model_validator(mode="after")
    def _parts_fit(self) -> "LeafSpineConfig":
        refuse_misfit(self, self.leaves, "leaves")
        refuse_too_many(3 * self.machines * ends_of(self) + 2 * self.leaves * self.spines * self.parallel)
        if isinstance(self.fabric_rate, tuple) and len(self.fabric_rate) != self.spines:
            rates = len(self.fabric_rate)
            raise ValueError(f"fabric_rate lists {rates} rates for {self.spines} spines; list one rate for each spine")
        return self

    @property
    def machines(self) -> int:
        """Number of hosts, whatever their adapters."""
        return self.leaves // (self.adapters_per_host if self.rails else 1) * self.hosts_per_leaf

    def build(self) -> "LeafSpine":
        """The fabric of the section."""
        return LeafSpine(self)


class LeafSpine:
    """The fabric of a `LeafSpineConfig`; path k between two leaves goes through spine k // parallel.

    Link indices: host to leaf, leaf to host, leaf to spine, spine to leaf, and the link inside each host.
    """

    def __init__(self, config: LeafSpineConfig) -> None:
        leaves = range(config.leaves)
        machines = Machines(config, config.machines, config.hosts_per_leaf, [f"leaf{leaf}" for leaf in leaves])
        self.hosts, self.ranks_per_host, self.gpus = machines.hosts, machines.ranks_per_host, machines.gpus
        self.leaf = machines.leaf
        self._leaves = config.leaves
        self._routes = config.spines * config.parallel
        self._leaf_spine = 2 * self.hosts
        self._spine_leaf = self._leaf_spine + config.leaves * self._routes
        self._inside = self._spine_leaf + config.leaves * self._routes
        routes = range(self._routes)
        rates = config.fabric_rate if isinstance(config.fabric_rate, tuple) else (config.fabric_rate,) * config.spines
        spines = [f"spine{spine}" for spine in range(config.spines)]
        self.tiers = (machines.leaves, tuple(spines))
        cables = [*machines.cables()]

        def fabric(route: int, leaf: int, up: bool) -> Link:
            spine, cable = divmod(route, config.parallel)
            ends = (f"leaf{leaf}", spines[spine]) if up else (spines[spine], f"leaf{leaf}")
            name = "-".join(ends) + (f".{cable}" if config.parallel > 1 else "")
            return Link(name, *ends, rates[spine], config.link_delay)

        self.links = (
            *(Link(f"{end}-{switch}", end, switch, rate, delay) for end, switch, rate, delay, _ in cables),
            *(Link(f"{switch}-{end}", switch, end, rate, delay) for end, switch, rate, delay, _ in cables),
            *(fabric(route, leaf, up=True) for leaf in leaves for route in routes),
            *(fabric(route, leaf, up=False) for route in routes for leaf in leaves),
            *(Link(f"{end}-inside", end, end, config.intra_host_rate, 0) for end, *_ in cables),
        )
        self.between = cache(self._between)

    def up(self, host: int) -> int:
        """The link with the host's number."""
        return host

    def down(self, host: int) -> int:
        """Links down to hosts follow the links up from hosts."""
        return self.hosts + host

    def inside(self, host: int) -> int:
        """Links inside hosts come last."""
        return self._inside + host

    def reverse(self, link: int) -> int:
        """Links from leaf to spine are ordered by leaf, links from spine to leaf by route."""
        if link >= self._inside:
            return link
        if link < self._leaf_spine:
            return link + self.hosts if link < self.hosts else link - self.hosts
        if link < self._spine_leaf:
            leaf, route = divmod(link - self._leaf_spine, self._routes)
            return self._spine_leaf + route * self._leaves + leaf
        route, leaf = divmod(link - self._spine_leaf, self._leaves)
        return self._leaf_spine + leaf * self._routes + route

    def _between(self, src_leaf: int, dst_leaf: int) -> tuple[Path, ...]:
        if src_leaf == dst_leaf:
            return ((),)
        if max(src_leaf, dst_leaf) >= self._leaves:
            return ()
        up = self._leaf_spine + src_leaf * self._routes
        return tuple((up + route, self._spine_leaf + route * self._leaves + dst_leaf) for route in range(self._routes))
