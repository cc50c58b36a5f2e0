"""Input and output of every engine."""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from netsim.congestion.credit import NdpConfig, ReceiverCreditConfig
from netsim.congestion.dcqcn import DcqcnConfig
from netsim.congestion.dctcp import DctcpConfig
from netsim.congestion.flow_control import AcknowledgementConfig, FlowControlConfig, NoFlowControlConfig
from netsim.congestion.nscc import NsccConfig
from netsim.congestion.recovery import NoRecoveryConfig, RecoveryConfig
from netsim.congestion.swift import SwiftConfig
from netsim.congestion.window import NoneConfig, WindowConfig
from netsim.engine.limits import LimitsConfig
from netsim.engine.watch import WatchConfig, Watched
from netsim.section import Section
from netsim.topology.buffer import SharedBufferConfig
from netsim.topology.failure import Rates
from netsim.topology.link_errors import LinkErrorsConfig
from netsim.topology.protocol import Topology
from netsim.topology.routes import Routes
from netsim.units import Size
from netsim.workload.tasks import Tasks

CongestionConfig = Annotated[
    NoneConfig | WindowConfig | DctcpConfig | DcqcnConfig | SwiftConfig | NsccConfig | ReceiverCreditConfig | NdpConfig,
    Field(discriminator="kind"),
]


Engine = Literal["auto", "simpy", "exact", "event", "windowed", "fluid"]
"""Names of engines; auto: the fastest engine that is exact."""


class PacketConfig(Section, frozen=True):
    """Section ``packet``.

    Args:
        payload: Largest payload of a packet; the last packet of a flow carries the rest.
        header: Bytes added to each packet on every link.
    """

    payload: Size = Field(default=4000, gt=0)
    header: Size = 0


class NicConfig(Section, frozen=True):
    """Section ``nic``: the order in which a host's flows use its link.

    Args:
        scheduling: round_robin: one packet from each flow in turn; sequential: one flow after the other.
        destinations: Order of flows released together. random: drawn; rotated: host i serves i+1, i+2, ...
    """

    scheduling: Literal["round_robin", "sequential"] = "round_robin"
    destinations: Literal["random", "rotated"] = "random"


class Scene(NamedTuple):
    """Everything that defines a run except its transport and seed.

    Args:
        topology: The fabric.
        rates: Rates of its links over time.
        routes: Its paths, and the routing's knowledge of them.
        hosts: Host of each rank.
        tasks: Tasks to carry out.
        packet: Sizes of packets.
        nic: Order of injection.
        queue_bytes: Room in front of each link but the hosts' own; None without limit.
        congestion: Congestion control of every flow that leaves its host.
        recovery: Loss recovery.
        flow_control: What switches do when a queue is full.
        acknowledgement: Size and lane of acknowledgements.
        limits: When a run ends although tasks are left.
        buffer: Memory that the queues of a switch share, in place of `queue_bytes`.
        classes: Number of classes of traffic; those with smaller numbers go first.
        watch: What is recorded over time.
        link_errors: Packets that are corrupted on cables.
        weights: Weight of each class that takes turns with others, 0 for one that goes first; empty: all go first.
    """

    topology: Topology
    rates: Rates
    routes: Routes
    hosts: Sequence[int]
    tasks: Tasks
    packet: PacketConfig = PacketConfig()
    nic: NicConfig = NicConfig()
    queue_bytes: int | None = None
    congestion: CongestionConfig = NoneConfig()
    recovery: RecoveryConfig = NoRecoveryConfig()
    flow_control: FlowControlConfig = NoFlowControlConfig()
    acknowledgement: AcknowledgementConfig = AcknowledgementConfig()
    limits: LimitsConfig = LimitsConfig()
    buffer: SharedBufferConfig | None = None
    classes: int = 1
    watch: WatchConfig | None = None
    link_errors: LinkErrorsConfig | None = None
    weights: tuple[int, ...] = ()

    @property
    def queues(self) -> bool:
        """Whether a departure may depend on what comes later, so that packets wait in queues to be chosen."""
        return self.flow_control.kind == "pfc" or self.buffer is not None or self.classes > 1

    @property
    def quanta(self) -> list[int]:
        """Bytes that each class may send when it has the turn, 0 for one that goes first; empty: all go first."""
        largest = max(self.packet.payload + self.packet.header, self.acknowledgement.size)
        return [weight * largest for weight in self.weights] if self.classes > 1 and any(self.weights) else []

    @property
    def ends_early(self) -> bool:
        """Whether the run ends although tasks in the background are left."""
        return bool(self.tasks.in_background.any())

    @property
    def most_paths(self) -> int:
        """Largest number of paths between two hosts that talk to each other."""
        leaves, pairs = len(self.topology.tiers[0]), np.flatnonzero(self.talking).tolist()
        return max((len(self.topology.between(*divmod(pair, leaves))) for pair in pairs), default=1)

    @property
    def talking(self) -> np.ndarray:
        """Whether messages go from a leaf to another: entry first leaf * leaves + second leaf."""
        columns, topology = self.tasks.columns(), self.topology
        moves, leaves = columns.bytes > 0, len(topology.tiers[0])
        leaf = np.array([topology.leaf(host) for host in self.hosts], dtype=np.int64)
        talking = np.zeros(leaves * leaves, dtype=bool)
        talking[leaf[columns.src[moves]] * leaves + leaf[columns.dst[moves]]] = True
        return talking

    @property
    def listens(self) -> bool:
        """Whether something besides the transport needs acknowledgements."""
        return self.congestion.kind != "none" or self.recovery.kind != "none" or self.flow_control.kind == "trim"


def keeps_state(scene: Scene) -> bool:
    """Whether congestion control keeps its state over the messages of a queue pair."""
    return getattr(scene.congestion, "state", "message") == "queue_pair"


FLOW = np.dtype(
    [
        ("id", np.int64),
        *((name, np.int32) for name in ("task", "src", "dst")),
        ("bytes", np.int64),
        ("packets", np.int32),
        *((name, np.int64) for name in ("start_ps", "end_ps")),
        *((name, np.int32) for name in ("reordered", "retransmitted")),
    ]
)
"""Figures of a flow; `end_ps` is the arrival of its last byte. Ranks, bytes, picoseconds, packets.

Runs of ten million flows are at home here, so that what fits is 32 bits wide.
"""

LINK = np.dtype([("bytes", np.int64), ("busy_ps", np.int64), ("max_queue_ps", np.int64), ("paused_ps", np.int64)])
"""Figures of a link.

Bytes that it carried, headers and acknowledgements included; time that it was busy with them; longest queue that a
packet found and joined, as service time of the unfinished work at the link's nominal rate; time for which the switch
behind it had paused it.
"""


class Losses(NamedTuple):
    """Losses and other irregularities of a run, in packets."""

    dropped: int = 0
    trimmed: int = 0
    marked: int = 0
    retransmitted: int = 0


class QueueSeries(NamedTuple):
    """Longest queue at any switch over time.

    Args:
        width_ps: Length of an interval.
        max_queue_ps: For each interval the longest queue that a packet found and joined, as service time.
    """

    width_ps: int
    max_queue_ps: np.ndarray


class Skipped(NamedTuple):
    """Messages of a run that were not simulated because they repeat others that were.

    Args:
        messages: Their number.
        bytes: Their payload.
    """

    messages: int = 0
    bytes: int = 0


class Outcome(NamedTuple):
    """The result of a run.

    Args:
        completion_ps: When the last task was done, background traffic aside.
        task_end_ps: When each task was done; the end of the run for background traffic that was not.
        packets: Data packets sent, each transmission counted.
        packet_hops: Data packets times the links they passed.
        control_hops: Acknowledgements and trimmed headers times the links they passed.
        losses: Losses and other irregularities.
        flows: Array of `FLOW`, by flow id, without background traffic that had not ended.
        links: Array of `LINK`, by link index.
        queues: Queues over time.
        last_sent: For each link that hosts send on, the remaining passage of its last data packet, without queues, in
            picoseconds.
        certified_allocations: Flow level only: number of allocations of rates, each checked to be max-min fair (every
            flow has a full link on which no flow is faster).
        watched: What was recorded over time, if the scene asks for it.
    """

    completion_ps: int
    task_end_ps: np.ndarray
    packets: int
    packet_hops: int
    control_hops: int
    losses: Losses
    flows: np.recarray
    links: np.recarray
    queues: QueueSeries
    last_sent: dict[int, int]
    certified_allocations: int = 0
    watched: Watched | None = None

    def without_rest(self, end_ps: int, left: np.ndarray, in_background: np.ndarray) -> "Outcome":
        """The outcome of a run that has ended while background traffic went on.

        Args:
            end_ps: When.
            left: Of each flow, how many packets had not arrived.
            in_background: Of each task, whether it belongs to background traffic.
        """
        flows = self.flows
        ended = (left == 0) & (flows.end_ps <= end_ps)
        done = np.zeros(len(in_background), dtype=bool)
        done[flows.task[ended]] = True
        done[flows.task[~ended]] = False
        ends = np.where(in_background & ~done, end_ps, self.task_end_ps)
        return self._replace(completion_ps=end_ps, task_end_ps=ends, flows=flows[ended])

    def equals(self, other: "Outcome") -> bool:
        """The same to the last bit."""
        if self.watched is not None and other.watched is not None and not self.watched.equals(other.watched):
            return False
        return all(
            np.array_equal(mine, np.asarray(others)) if isinstance(mine, np.ndarray) else mine == others
            for mine, others in zip(self._flat(), other._flat(), strict=True)
        )

    def _flat(self) -> tuple[object, ...]:
        return (*self[:8], *self.queues, self.last_sent)
