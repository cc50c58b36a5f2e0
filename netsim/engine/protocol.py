"""Input and output of every engine."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from netsim.congestion import CongestionConfig
from netsim.congestion.flow_control import AcknowledgementConfig, FlowControlConfig, NoFlowControlConfig
from netsim.congestion.recovery import NoRecoveryConfig, RecoveryConfig
from netsim.congestion.window import NoneConfig
from netsim.engine.limits import LimitsConfig
from netsim.engine.watch import WatchConfig, Watched
from netsim.foundation.settings import Section
from netsim.foundation.units import Size
from netsim.topology.failure import Rates, Routes
from netsim.topology.keys import LinkErrorsConfig, SharedBufferConfig
from netsim.topology.protocol import Topology
from netsim.transport.protocol import Release
from netsim.workload.tasks import Tasks

Engine = Literal["auto", "simpy", "exact", "event", "windowed", "fluid"]
"""Names of engines; auto: the fastest engine that is exact."""


class PacketConfig(Section):
    """Section ``packet``: sizes of packets.

    Args:
        payload: Largest payload of a packet; the last packet of a flow carries the rest.
        header: Bytes added to each packet on every link.
    """

    payload: Size = Field(default=4000, gt=0)
    header: Size = 0


class NicConfig(Section):
    """Section ``nic``: the order in which a host's flows use its link.

    Args:
        scheduling: Order in which the flows of a host send packets. round_robin: one packet from each flow in turn;
            sequential: one flow after the other.
        destinations: Order of flows that a host releases together. random: drawn; rotated: host i serves hosts i+1,
            i+2, ...
    """

    scheduling: Literal["round_robin", "sequential"] = "round_robin"
    destinations: Literal["random", "rotated"] = "random"


class Scene(NamedTuple):
    """Everything that defines a run except its transport and seed."""

    topology: Topology  # the fabric
    rates: Rates  # rates of its links over time
    routes: Routes  # its paths, and the routing's knowledge of them
    hosts: Sequence[int]  # host of each rank
    tasks: Tasks  # tasks to carry out
    packet: PacketConfig = PacketConfig()  # sizes of packets
    nic: NicConfig = NicConfig()  # order of injection
    queue_bytes: int | None = None  # room in front of each link but the hosts' own; None without limit
    congestion: CongestionConfig = NoneConfig()  # congestion control of every flow that leaves its host
    recovery: RecoveryConfig = NoRecoveryConfig()  # loss recovery
    flow_control: FlowControlConfig = NoFlowControlConfig()  # what switches do when a queue is full
    acknowledgement: AcknowledgementConfig = AcknowledgementConfig()  # size and lane of acknowledgements
    limits: LimitsConfig = LimitsConfig()  # when a run ends although tasks are left
    buffer: SharedBufferConfig | None = None  # memory that the queues of a switch share, in place of `queue_bytes`
    classes: int = 1  # number of classes of traffic; those with smaller numbers go first
    watch: WatchConfig | None = None  # what is recorded over time
    link_errors: LinkErrorsConfig | None = None  # packets that are corrupted on cables
    # Weight of each class that takes turns with others, 0 for one that goes first; empty: all go first
    weights: tuple[int, ...] = ()

    @property
    def queues(self) -> bool:
        """Whether a departure may depend on later events, so that links choose among packets in queues."""
        return self.flow_control.kind == "pfc" or self.buffer is not None or self.classes > 1

    @property
    def quanta(self) -> list[int]:
        """Quantum in bytes of each class, 0 for strict priority; empty if all classes have strict priority."""
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
        """Whether messages go from one leaf to another, [source leaf * leaves + destination leaf]."""
        columns, topology = self.tasks.columns(), self.topology
        moves, leaves = columns.bytes > 0, len(topology.tiers[0])
        leaf = np.array([topology.leaf(host) for host in self.hosts], dtype=np.int64)
        talking = np.zeros(leaves * leaves, dtype=bool)
        talking[leaf[columns.src[moves]] * leaves + leaf[columns.dst[moves]]] = True
        return talking

    def release(self, task: int, now_ps: int) -> Release:
        """The message of a task, which is released now."""
        columns, routes, leaf = self.tasks.columns(), self.routes, self.topology.leaf
        ranks = int(columns.src[task]), int(columns.dst[task])
        src, dst = self.hosts[ranks[0]], self.hosts[ranks[1]]
        return Release(
            task,
            *ranks,
            leaf(dst),
            int(columns.bytes[task]),
            routes.paths(src, dst),
            routes.usable(src, dst, routes.epoch(now_ps)),
            leaf(src),
            routes.places[src],
            routes.places[dst],
            routes.minimal(leaf(src), leaf(dst)),
            None if self.tasks.keys is None else int(self.tasks.keys[task]),
        )

    @property
    def listens(self) -> bool:
        """Whether something besides the transport needs acknowledgements."""
        return self.congestion.kind != "none" or self.recovery.kind != "none" or self.flow_control.kind == "trim"


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
    """Longest queue at any switch over time."""

    width_ps: int  # length of an interval
    max_queue_ps: np.ndarray  # for each interval the longest queue that a packet found and joined, as service time


class Skipped(NamedTuple):
    """Messages of a run that were not simulated because they repeat others that were."""

    messages: int = 0  # their number
    bytes: int = 0  # their payload


class Outcome(NamedTuple):
    """The result of a run."""

    completion_ps: int  # when the last task was done, background traffic aside
    task_end_ps: np.ndarray  # when each task was done; the end of the run for background traffic that was not
    packets: int  # data packets sent, each transmission counted
    packet_hops: int  # data packets times the links they passed
    control_hops: int  # acknowledgements and trimmed headers times the links they passed
    losses: Losses  # losses and other irregularities
    flows: np.recarray  # array of `FLOW`, by flow id, without background traffic that had not ended
    links: np.recarray  # array of `LINK`, by link index
    queues: QueueSeries  # queues over time
    # For each link that hosts send on, the remaining passage of its last data packet, without queues, in picoseconds
    last_sent: dict[int, int]
    # Flow level only: number of allocations of rates, each checked to be max-min fair (every flow has a full link on
    # which no flow is faster)
    certified_allocations: int = 0
    watched: Watched | None = None  # what was recorded over time, if the scene asks for it

    def without_rest(self, end_ps: int, left: np.ndarray, in_background: np.ndarray) -> "Outcome":
        """The outcome of a run that has ended at `end_ps` while background traffic went on.

        `left` are the packets of each flow that had not arrived, `in_background` marks the tasks of background traffic.
        """
        flows = self.flows
        ended = (left == 0) & (flows.end_ps <= end_ps)
        done = np.zeros(len(in_background), dtype=bool)
        done[flows.task[ended]] = True
        done[flows.task[~ended]] = False
        ends = np.where(in_background & ~done, end_ps, self.task_end_ps)
        return self._replace(completion_ps=end_ps, task_end_ps=ends, flows=flows[ended])

    def equals(self, other: "Outcome") -> bool:
        """Whether two outcomes are equal to the last bit."""
        if self.watched is not None and other.watched is not None and not self.watched.equals(other.watched):
            return False
        return all(
            np.array_equal(mine, np.asarray(others)) if isinstance(mine, np.ndarray) else mine == others
            for mine, others in zip(self._flat(), other._flat(), strict=True)
        )

    def _flat(self) -> tuple[object, ...]:
        return (*self[:8], *self.queues, self.last_sent)
