"""Three-tier fabric: pods of edge and aggregation switches, joined by core switches."""

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from netsim.foundation.settings import Section
from netsim.foundation.units import Duration, Rate
from netsim.topology.cabled import Cable, CabledFabric, Machines, ends_of, refuse_misfit, with_defaults
from netsim.topology.failure import FailureConfig
from netsim.topology.keys import LinkErrorsConfig, Queue, RanksPerHost, SharedBufferConfig, refuse_too_many
from netsim.topology.protocol import Path

PositiveRate = Annotated[Rate, Field(gt=0)]


class FatTreeConfig(Section):
    """Section ``topology`` of kind ``fat_tree``.

    Give either k or all counts. k stands for k pods of k/2 edge and k/2 aggregation switches, (k/2)^2 core switches,
    and k/2 adapters of hosts below an edge unless hosts_per_edge is given (Al-Fares, Loukissas, Vahdat: A Scalable,
    Commodity Data Center Network Architecture, SIGCOMM 2008, section 3).

    With gpu_link_rate, or several adapters a host, each rank is a GPU with a link of its own inside its host: see
    `netsim.topology.leaf_spine.LeafSpineConfig`.

    Args:
        k: Number of ports of a switch, even; it stands for all counts.
        pods: Number of pods.
        edges_per_pod: Edge switches of a pod, each with links to every aggregation switch of its pod.
        aggregations_per_pod: Aggregation switches of a pod.
        cores: Core switches, a multiple of aggregations_per_pod; core c has links to aggregation
            c // (cores / aggregations_per_pod) of every pod.
        hosts_per_edge: Number of hosts below an edge; host h sits on edge h // hosts_per_edge. With rails, number of
            hosts of a group.
        adapters_per_host: Adapters of a host, each with a link of host_rate to an edge.
        rails: Whether adapters_per_host edges of a pod form a group: adapter i of every host of a group has its link to
            edge i of the group.
        gpu_link_rate: Rate of a GPU's link inside its host, each direction; with several adapters 3600Gbps if absent.
        gpu_link_delay: Propagation delay of a GPU's link, to the switch inside its host or from it.
        calibration: File of measured times that collectives inside a host take in place of sending messages: written by
            `python -m netsim calibrate`, or shipped, such as h100.
        edge_parallel: Links between an edge and an aggregation; aggregations_per_pod * edge_parallel is the number of
            paths between two edges of a pod.
        core_parallel: Links between an aggregation and a core; cores * core_parallel * edge_parallel is the number of
            paths between edges of two pods.
        ranks_per_host: Ranks on a host; rank i sits on host i // ranks_per_host. As many as adapters if absent.
        host_rate: Rate of a host's link to its edge, each direction.
        edge_rate: Rate of a link between edge and aggregation, each direction.
        core_rate: Rate of a link between aggregation and core, each direction.
        intra_host_rate: Rate of the one directed link that all ranks of a host share to talk to each other, if no GPU
            has a link of its own.
        link_delay: Propagation delay of every link but the one inside a host, which has none.
        queue: Capacity of the queue of a switch's link, in bytes that the link has still to send.
        buffer: Memory that all queues of a switch share, in place of `queue`.
        link_errors: Packets that are corrupted on cables.
        failures: Links and switches that fail.
    """

    kind: Literal["fat_tree"]
    k: Annotated[int, Field(strict=True, ge=2, multiple_of=2)] | None = None
    pods: PositiveInt
    edges_per_pod: PositiveInt
    aggregations_per_pod: PositiveInt
    cores: PositiveInt
    hosts_per_edge: PositiveInt
    adapters_per_host: PositiveInt = 1
    rails: bool = False
    gpu_link_rate: PositiveRate | None = None
    gpu_link_delay: Duration = 250 * 10**3
    calibration: str | None = None
    edge_parallel: PositiveInt = 1
    core_parallel: PositiveInt = 1
    ranks_per_host: RanksPerHost = 1
    host_rate: PositiveRate = 100 * 10**9
    edge_rate: PositiveRate = 100 * 10**9
    core_rate: PositiveRate = 100 * 10**9
    intra_host_rate: PositiveRate = 3600 * 10**9
    link_delay: Duration = 500 * 10**3
    queue: Queue = None
    buffer: SharedBufferConfig | None = None
    link_errors: LinkErrorsConfig | None = None
    failures: tuple[FailureConfig, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _counts_of_k(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = with_defaults(values)
        if type(values.get("k")) is int:
            return {**_counts(values["k"]), "hosts_per_edge": _hosts_per_edge(values), **values}
        missing = [name for name in (*_counts(2), "hosts_per_edge") if name not in values]
        if missing and values.get("k") is None:
            raise ValueError(f"a fat tree lacks {', '.join(missing)}; add what is missing, or give k, such as k: 8")
        return values

    @model_validator(mode="after")
    def _counts_agree(self) -> "FatTreeConfig":
        for name, count in _counts(self.k).items() if self.k else ():
            if getattr(self, name) != count:
                raise ValueError(f"k = {self.k} makes {name} {count}, not {getattr(self, name)}; give one of the two")
        if self.cores % self.aggregations_per_pod:
            every = self.aggregations_per_pod
            raise ValueError(f"{self.cores} cores do not spread over {every} aggregations; give a multiple of {every}")
        refuse_misfit(self, self.edges_per_pod, "edges_per_pod")
        edges = self.pods * self.edges_per_pod
        between = edges * self.aggregations_per_pod * self.edge_parallel + self.pods * self.cores * self.core_parallel
        refuse_too_many(3 * self.machines * ends_of(self) + 2 * between)
        return self

    @property
    def machines(self) -> int:
        """Number of hosts, whatever their adapters."""
        return self.pods * self.edges_per_pod // (self.adapters_per_host if self.rails else 1) * self.hosts_per_edge

    def build(self) -> "FatTree":
        """The fabric of the section."""
        return FatTree(self)


def _counts(k: int) -> dict[str, int]:
    half = k // 2
    return {"pods": k, "edges_per_pod": half, "aggregations_per_pod": half, "cores": half * half}


def _hosts_per_edge(values: dict[str, Any]) -> int:
    """Hosts whose adapters fill the k/2 ports of an edge, or the ports of a group of edges."""
    ports, adapters = values["k"] // 2, values.get("adapters_per_host", 1)
    if values.get("rails") is True or type(adapters) is not int or adapters < 1:
        return ports
    if ports % adapters and "hosts_per_edge" not in values:
        problem = f"hosts of {adapters} adapters do not fill the {ports} ports of an edge that k = {values['k']} leaves"
        raise ValueError(f"{problem}; give hosts_per_edge")
    return ports // adapters


class FatTree(CabledFabric):
    """The fabric of a `FatTreeConfig`: edges and aggregations are numbered through all pods, pod by pod.

    Paths are in the order of their links; among parallel cables a path uses the same number up and down.
    """

    def __init__(self, config: FatTreeConfig) -> None:
        self._config = config
        edges, aggregations = (config.pods * count for count in (config.edges_per_pod, config.aggregations_per_pod))
        machines = Machines(config, config.machines, config.hosts_per_edge, [f"edge{edge}" for edge in range(edges)])
        self.gpus, self.leaf = machines.gpus, machines.leaf
        self._edges = edges
        self._edge_up = config.aggregations_per_pod * config.edge_parallel
        self._core_up = config.cores // config.aggregations_per_pod * config.core_parallel
        self._edge_cables = machines.hosts
        self._core_cables = machines.hosts + edges * self._edge_up
        cables = [*machines.cables(), *self._cables()]
        super().__init__(cables, machines.hosts, machines.ranks_per_host, config.intra_host_rate)
        counts = {"aggregation": aggregations, "core": config.cores}
        above = (tuple(f"{tier}{n}" for n in range(count)) for tier, count in counts.items())
        self.tiers = (machines.leaves, *above)
        self.between = cache(self._between)

    def _cables(self) -> Iterator[Cable]:
        """The cables between switches."""
        config = self._config
        delay, each = config.link_delay, config.aggregations_per_pod
        cores_each = config.cores // each
        for edge in range(config.pods * config.edges_per_pod):
            for place in range(each):
                ends = f"edge{edge}", f"aggregation{self._pod(edge) * each + place}"
                for suffix in _suffixes(config.edge_parallel):
                    yield Cable(*ends, config.edge_rate, delay, suffix)
        for aggregation in range(config.pods * each):
            for place in range(cores_each):
                ends = f"aggregation{aggregation}", f"core{aggregation % each * cores_each + place}"
                for suffix in _suffixes(config.core_parallel):
                    yield Cable(*ends, config.core_rate, delay, suffix)

    def _pod(self, edge: int) -> int:
        return edge // self._config.edges_per_pod

    def _between(self, src_leaf: int, dst_leaf: int) -> tuple[Path, ...]:
        if src_leaf == dst_leaf:
            return ((),)
        if max(src_leaf, dst_leaf) >= self._edges:
            return ()
        src, dst = (self._edge_cables + edge * self._edge_up for edge in (src_leaf, dst_leaf))
        src_pod, dst_pod = self._pod(src_leaf), self._pod(dst_leaf)
        if src_pod == dst_pod:
            return tuple((src + up, self.reverse(dst + up)) for up in range(self._edge_up))
        pod_up = self._config.aggregations_per_pod * self._core_up
        rise, fall = (self._core_cables + pod * pod_up for pod in (src_pod, dst_pod))
        ups = [
            (up, up // self._config.edge_parallel * self._core_up + above)
            for up in range(self._edge_up)
            for above in range(self._core_up)
        ]
        return tuple((src + up, rise + top, self.reverse(fall + top), self.reverse(dst + up)) for up, top in ups)


def _suffixes(parallel: int) -> list[str]:
    return [f".{cable}" for cable in range(parallel)] if parallel > 1 else [""]
