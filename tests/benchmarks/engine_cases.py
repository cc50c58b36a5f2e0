"""The cases of the benchmark: the same scenes for every engine that can simulate them."""

from collections.abc import Callable
from typing import NamedTuple

from netsim.congestion.dctcp import DctcpConfig
from netsim.congestion.flow_control import AcknowledgementConfig, PfcConfig
from netsim.engine.protocol import Scene
from netsim.topology.failure import Rates, Routes
from netsim.topology.leaf_spine import LeafSpine, LeafSpineConfig
from netsim.workload.tasks import Tasks

PACKET_BYTES = 4000

Pattern = Callable[[int, int], Tasks]
"""Makes the messages between a number of hosts, each of a number of bytes."""


def all_to_all(hosts: int, size_bytes: int) -> Tasks:
    """A message between each two hosts; a host sends to the next one first."""
    tasks = Tasks()
    for src in range(hosts):
        for distance in range(1, hosts):
            tasks.append(src, (src + distance) % hosts, size_bytes, 0, ())
    return tasks


def permutation(hosts: int, size_bytes: int) -> Tasks:
    """One message from and one to each host, none to the sender itself. `hosts` is even and no multiple of 13."""
    tasks = Tasks()
    for src in range(hosts):
        tasks.append(src, (13 * src + 7) % hosts, size_bytes, 0, ())
    return tasks


class Shape(NamedTuple):
    """A leaf-spine fabric of 100 Gbps and 500 ns a link."""

    leaves: int
    hosts_per_leaf: int
    spines: int


class Case(NamedTuple):
    """A scene to be simulated with ecmp and seed 0; ratios are to the first engine.

    `closed_loop`: DCTCP, with acknowledgements that stand in the queues like data; `pauses`: priority flow control.
    """

    name: str
    shape: Shape
    pattern: Pattern
    packets: int
    engines: tuple[str, ...]
    closed_loop: bool = False
    pauses: bool = False

    @property
    def small(self) -> "Case":
        """The case at a small size, whose run takes hardly more time than compilation."""
        return self._replace(shape=Shape(2, 2, 2), packets=min(self.packets, 4))

    def scene(self) -> Scene:
        """The scene to simulate."""
        leaves, hosts_per_leaf, spines = self.shape
        topology = LeafSpine(
            LeafSpineConfig(kind="leaf_spine", leaves=leaves, spines=spines, hosts_per_leaf=hosts_per_leaf)
        )
        rates = Rates(topology, ())
        tasks = self.pattern(topology.hosts, self.packets * PACKET_BYTES)
        scene = Scene(topology, rates, Routes(topology, rates), list(range(topology.hosts)), tasks)
        if self.pauses:
            scene = scene._replace(flow_control=PfcConfig(kind="pfc"))
        if self.closed_loop:
            loop = DctcpConfig(kind="dctcp"), AcknowledgementConfig(lane="data")
            return scene._replace(congestion=loop[0], acknowledgement=loop[1])
        return scene


_CLOSED = ("simpy", "event", "windowed")

CASES = (
    Case("all-to-all, 64 hosts, 16 packets", Shape(8, 8, 8), all_to_all, 16, ("simpy", "exact")),
    Case("all-to-all, 256 hosts, 8 packets", Shape(16, 16, 16), all_to_all, 8, ("exact",)),
    Case("all-to-all, 1,024 hosts, 2 packets", Shape(32, 32, 32), all_to_all, 2, ("exact",)),
    Case("DCTCP permutation, 64 hosts, 1,000 packets", Shape(8, 8, 8), permutation, 1000, _CLOSED, True),
    Case("DCTCP all-to-all, 64 hosts, 16 packets", Shape(8, 8, 8), all_to_all, 16, _CLOSED, True),
    Case("DCTCP permutation, 1,024 hosts, 100 packets", Shape(32, 32, 32), permutation, 100, _CLOSED[1:], True),
    Case(
        "PFC permutation, 64 hosts, 1,000 packets", Shape(8, 8, 8), permutation, 1000, ("simpy", "event"), pauses=True
    ),
    Case("PFC permutation, 1,024 hosts, 250 packets", Shape(32, 32, 32), permutation, 250, _CLOSED[1:], pauses=True),
    Case("permutation, 10,240 hosts", Shape(320, 32, 32), permutation, 250, ("fluid",)),
    Case("all-to-all, 1,024 hosts", Shape(32, 32, 32), all_to_all, 2, ("fluid",)),
)
"""Names with packets are packet level, the others flow level."""
