"""Fabrics and tasks for tests of the engines."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import Any

import networkx as nx

from netsim.engine.protocol import NicConfig, Outcome, PacketConfig, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.topology.failure import FailureConfig, Rates, Routes
from netsim.topology.leaf_spine import LeafSpine, LeafSpineConfig
from netsim.topology.protocol import Topology
from netsim.transport.ecmp import Ecmp
from netsim.transport.ethereal import Ethereal
from netsim.transport.spray import SprayRandom, SprayRoundRobin
from netsim.workload.tasks import Task, Tasks

SCENARIO = """\
format: flowfabric.scenario/1
topology: {kind: leaf_spine, leaves: 2, spines: 2, hosts_per_leaf: 2, queue: 100KB}
workload: {kind: collective, op: all_to_all, bytes_per_rank: 8KB}
transports: [ecmp]
congestion: {kind: dctcp}
recovery: {kind: selective}
seeds: [0]
"""
"""A small file of a scenario in which packets may be lost."""

TRANSPORTS = {"ecmp": Ecmp, "ethereal": Ethereal, "spray_round_robin": SprayRoundRobin, "spray_random": SprayRandom}


def fabric(leaves: int, spines: int, hosts_per_leaf: int, **fields: Any) -> LeafSpine:
    """A leaf-spine fabric; quantities are strings as in a scenario."""
    shape = {"kind": "leaf_spine", "leaves": leaves, "spines": spines, "hosts_per_leaf": hosts_per_leaf}
    return LeafSpine(LeafSpineConfig.model_validate(shape | fields))


def scene(
    topology: Topology,
    tasks: Sequence[Task],
    payload: str = "4000B",
    header: str = "0B",
    scheduling: str = "round_robin",
    destinations: str = "random",
    failures: Sequence[FailureConfig] = (),
) -> Scene:
    """A scene in which every place of the fabric holds the rank of its number."""
    ranks = topology.hosts * topology.ranks_per_host
    packet = PacketConfig.model_validate({"payload": payload, "header": header})
    nic = NicConfig.model_validate({"scheduling": scheduling, "destinations": destinations})
    rates = Rates(topology, failures)
    hosts = [rank // topology.ranks_per_host for rank in range(ranks)]
    return Scene(topology, rates, Routes(topology, rates), hosts, Tasks(tasks), packet, nic)


def flow(src: int, dst: int, size_bytes: int, start_ps: int = 0) -> Task:
    """A message that waits for nothing."""
    return Task(src, dst, size_bytes, start_ps, ())


def all_to_all(hosts: int, size_bytes: int) -> list[Task]:
    """The same number of bytes between each two hosts."""
    return [flow(src, dst, size_bytes) for src in range(hosts) for dst in range(hosts) if src != dst]


def simulate(what: Scene, transport: str = "ecmp", seed: int = 0) -> Outcome:
    """A run of the reference engine."""
    return ReferenceEngine(what, TRANSPORTS[transport](seed, what.most_paths), seed).run()


def all_shortest(topology: Topology) -> Callable[[int, int], set[tuple[int, ...]]]:
    """All shortest paths between leaves, by networkx."""
    cables: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, link in enumerate(topology.links):
        cables[link.src, link.dst].append(index)
    switches = nx.DiGraph(list(cables))

    def between(src: int, dst: int) -> set[tuple[int, ...]]:
        leaves = topology.tiers[0]
        walks = nx.all_shortest_paths(switches, leaves[src], leaves[dst]) if src != dst else [[leaves[src]]]
        return {route for walk in walks for route in product(*(cables[pair] for pair in pairwise(walk)))}

    return between
