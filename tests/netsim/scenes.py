"""Fabrics and tasks for tests of the engines."""

from collections.abc import Sequence
from typing import Any

from netsim.engine.protocol import NicConfig, Outcome, PacketConfig, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.topology.failure import FailureConfig, Rates, Routes
from netsim.topology.leaf_spine import LeafSpine, LeafSpineConfig
from netsim.topology.protocol import Topology
from netsim.transport.ecmp import Ecmp
from netsim.transport.ethereal import Ethereal
from netsim.transport.spray import SprayRandom, SprayRoundRobin
from netsim.workload.tasks import Task, Tasks

TRANSPORTS = {
    "ecmp": Ecmp,
    "ethereal": Ethereal,
    "spray_round_robin": SprayRoundRobin,
    "spray_random": SprayRandom,
}


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
