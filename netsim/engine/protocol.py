"""What every engine is given and gives back."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from netsim.section import Section
from netsim.topology.protocol import Topology
from netsim.units import Size
from netsim.workload.protocol import Task


class PacketConfig(Section, frozen=True):
    """Section ``packet``.

    Args:
        payload: Most payload a packet carries; the last packet of a flow carries the rest.
        header: Bytes added to each packet on every link.
    """

    payload: Size = Field(default=4000, gt=0)
    header: Size = 0


class NicConfig(Section, frozen=True):
    """Section ``nic``: the order in which a host's flows get at its link.

    Args:
        scheduling: round_robin: one packet from each flow in turn; sequential: one flow after the other.
        destinations: Order of flows released together. random: drawn; rotated: host i serves i+1, i+2, ...
    """

    scheduling: Literal["round_robin", "sequential"] = "round_robin"
    destinations: Literal["random", "rotated"] = "random"


class Scene(NamedTuple):
    """Everything about a run but its transport.

    Args:
        topology: The fabric.
        hosts: Host of each rank.
        tasks: What must happen.
        packet: Sizes of packets.
        nic: Order of injection.
    """

    topology: Topology
    hosts: Sequence[int]
    tasks: Sequence[Task]
    packet: PacketConfig
    nic: NicConfig

    @property
    def most_paths(self) -> int:
        """Largest number of paths between two hosts that talk to each other."""
        pairs = {(self.hosts[t.src], self.hosts[t.dst]) for t in self.tasks if t.bytes}
        return max((len(self.topology.paths(*pair)) for pair in pairs), default=1)


class FlowRecord(NamedTuple):
    """What became of a flow. Times in picoseconds; `end_ps` is the arrival of its last byte."""

    id: int
    task: int
    src: int
    dst: int
    bytes: int
    packets: int
    start_ps: int
    end_ps: int
    reordered: int


class LinkRecord(NamedTuple):
    """What a link saw.

    Args:
        bytes: Bytes it carried, headers included.
        busy_ps: Time it was busy.
        max_queue_ps: Longest unfinished work a packet found and became part of, in picoseconds of service.
    """

    bytes: int
    busy_ps: int
    max_queue_ps: int


class Outcome(NamedTuple):
    """What a run was.

    Args:
        completion_ps: When the last task was done.
        task_end_ps: When each task was done.
        packets: Packets sent.
        packet_hops: Packets times links.
        flows: By flow id.
        links: By link index.
        last_sent: For each link that hosts send on: what remained, in picoseconds without any queue, for what it sent
            last.
    """

    completion_ps: int
    task_end_ps: Sequence[int]
    packets: int
    packet_hops: int
    flows: Sequence[FlowRecord]
    links: Sequence[LinkRecord]
    last_sent: dict[int, int]
