"""Any fabric of hosts, switches and cables, read from a file."""

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from netsim.foundation.units import Rate
from netsim.topology.cabled import Cable, CabledFabric
from netsim.topology.failure import FailureConfig
from netsim.topology.graph_file import CableEntry, GraphFile, read_graph
from netsim.topology.keys import LinkErrorsConfig, Queue, RanksPerHost, SharedBufferConfig
from netsim.topology.shortest import Outgoing, ShortestPaths, distances


class GraphConfig(Section):
    """Section ``topology`` of kind ``graph``.

    Args:
        path: A fabric in networkx node-link JSON (`netsim.topology.graph_file`), relative to the working directory.
        max_paths: Largest number of paths between two switches; `netsim.topology.shortest` says which are taken if
            there are more.
        ranks_per_host: Ranks on a host; rank i sits on host i // ranks_per_host.
        intra_host_rate: Rate of the one directed link that all ranks of a host share to talk to each other.
        queue: Capacity of the queue of a switch's link, in bytes that the link has still to send.
        buffer: Memory that all queues of a switch share, in place of `queue`.
        link_errors: Packets that are corrupted on cables.
        failures: Links and switches that fail.
    """

    kind: Literal["graph"]
    path: str
    max_paths: PositiveInt = 64
    ranks_per_host: RanksPerHost = 1
    intra_host_rate: Annotated[Rate, Field(gt=0)] = 3600 * 10**9
    queue: Queue = None
    buffer: SharedBufferConfig | None = None
    link_errors: LinkErrorsConfig | None = None
    failures: tuple[FailureConfig, ...] = ()

    def build(self) -> "Graph":
        """The fabric of the section."""
        return Graph(self)


class Graph(CabledFabric):
    """The fabric of a `GraphConfig`: shortest paths by number of links, in the order of the file's cables.

    Parallel cables are different paths.
    """

    def __init__(self, config: GraphConfig) -> None:
        file = Path(config.path)
        graph = read_graph(file)
        hosts = {node.id: f"host{n}" for n, node in enumerate(n for n in graph.nodes if n.kind == "host")}
        cables = _cables(graph, hosts)
        super().__init__(cables, len(hosts), config.ranks_per_host, config.intra_host_rate)
        for name, times in Counter(link.name for link in self.links).items():
            if times > 1:
                raise Refusal(file, "nodes", f"{times} links would be called '{name}'", "choose other ids")
        leaves = dict.fromkeys(cable.second for cable in cables[: self.hosts])
        self.tiers = _tiers(graph, cables, leaves)
        numbers = {switch: number for number, switch in enumerate(switch for tier in self.tiers for switch in tier)}
        self._leaf = [numbers[cable.second] for cable in cables[: self.hosts]]
        self.between = cache(ShortestPaths(_outgoing(cables, numbers), config.max_paths))

    def leaf(self, host: int) -> int:
        return self._leaf[host]


def _cables(graph: GraphFile, hosts: dict[str, str]) -> list[Cable]:
    """Hosts' cables in the order of the hosts, then the others in the order of the file, numbered if parallel."""
    of_host: dict[str, Cable] = {}
    between: list[Cable] = []
    total: Counter[frozenset[str]] = Counter()
    for entry in graph.cables:
        total[_pair(entry)] += entry.count
    numbered: Counter[frozenset[str]] = Counter()
    for entry in graph.cables:
        host, switch = sorted((entry.source, entry.target), key=lambda end: end not in hosts)
        if host in hosts:
            of_host[host] = Cable(hosts[host], switch, entry.rate, entry.delay)
            continue
        for _ in range(entry.count):
            suffix = f".{numbered[_pair(entry)]}" if total[_pair(entry)] > 1 else ""
            numbered[_pair(entry)] += 1
            between.append(Cable(entry.source, entry.target, entry.rate, entry.delay, suffix))
    return [*(of_host[host] for host in hosts), *between]


def _pair(entry: CableEntry) -> frozenset[str]:
    return frozenset((entry.source, entry.target))


def _outgoing(cables: list[Cable], numbers: dict[str, int]) -> Outgoing:
    """The switches' links to each other, in the order of the cables."""
    outgoing: list[list[tuple[int, int]]] = [[] for _ in numbers]
    for index, cable in enumerate(cables):
        if cable.first in numbers:
            first, second = numbers[cable.first], numbers[cable.second]
            outgoing[first].append((index, second))
            outgoing[second].append((len(cables) + index, first))
    return outgoing


def _tiers(graph: GraphFile, cables: list[Cable], leaves: dict[str, None]) -> tuple[tuple[str, ...], ...]:
    """Switches by the tiers of the file; where it gives none, by the distance from the switches with hosts."""
    switches = [node for node in graph.nodes if node.kind == "switch"]
    numbers = {switch.id: number for number, switch in enumerate(switches)}
    distance = distances(_outgoing(cables, numbers), [numbers[leaf] for leaf in leaves])
    tiers = {switch.id: distance[n] if switch.tier is None else switch.tier for n, switch in enumerate(switches)}
    return tuple(tuple(name for name in tiers if tiers[name] == tier) for tier in sorted(set(tiers.values())))
