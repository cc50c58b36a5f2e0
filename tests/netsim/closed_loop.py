"""Scenes with congestion control, losses and flow control, and an engine that watches itself."""

import random
from collections import Counter
from typing import Any

from pydantic import TypeAdapter

from netsim.congestion import CongestionConfig
from netsim.congestion.flow_control import AcknowledgementConfig, FlowControlConfig
from netsim.congestion.recovery import RecoveryConfig
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.connection import Connection, Listener, Packet
from netsim.engine.reference.engine import ReferenceEngine
from netsim.engine.reference.queued import QueuedLinks
from netsim.foundation.units import parse_size
from netsim.topology.failure import FailureConfig
from netsim.transport.build import build_transport
from netsim.transport.config import TransportConfig
from netsim.transport.protocol import Transport
from tests.netsim.scenes import fabric, flow, scene

_SECTIONS = {
    "congestion": TypeAdapter(CongestionConfig),
    "recovery": TypeAdapter(RecoveryConfig),
    "flow_control": TypeAdapter(FlowControlConfig),
    "acknowledgement": TypeAdapter(AcknowledgementConfig),
}
PACKET_TRANSPORTS = [
    "ecmp",
    "mprdma-2",
    {"kind": "flowlet", "gap": "1us"},
    "adaptive_flow",
    "spray_round_robin",
    "spray_random",
    "drb",
    {"kind": "reps", "mark_above": "12KB"},
    "drill",
    "jsq",
    "ethereal",
]


def controlled(what: Scene, queue: str | None = None, **sections: Any) -> Scene:
    """The scene with sections as a scenario writes them: congestion, recovery, flow_control, acknowledgement."""
    built = {name: _SECTIONS[name].validate_python(section) for name, section in sections.items()}
    return what._replace(queue_bytes=parse_size(queue) if queue else None, **built)


def transport_of(entry: Any, what: Scene, seed: int = 0) -> Transport:
    """A transport as a scenario writes it."""
    built = build_transport(TypeAdapter(TransportConfig).validate_python(entry), seed, what.most_paths)
    assert built is not None
    return built


def run(what: Scene, transport: Any = "ecmp", seed: int = 0) -> Outcome:
    """A run of the reference engine."""
    return ReferenceEngine(what, transport_of(transport, what, seed), seed).run()


class SeeingEngine(ReferenceEngine):
    """Sees every packet that leaves its host, and every packet that leaves a link."""

    def __init__(self, what: Scene, transport: Transport, seed: int) -> None:
        super().__init__(what, transport, seed)
        self._make, self._send_on = self._routes.packet, self._links.forward
        self._routes.packet, self._links.forward = self.packet, self.forward

    def packet(self, connection: Connection, now_ps: int) -> Packet:
        """See `Routes.packet`."""
        return self._make(connection, now_ps)

    def forward(self, packet: Packet, link: int, leaves_ps: int) -> None:
        """See `Links.forward`."""
        self._send_on(packet, link, leaves_ps)


class WatchedEngine(SeeingEngine):
    """Checks windows and order on every link while it runs, and counts what becomes of packets."""

    def __init__(self, what: Scene, transport: Any = "ecmp", seed: int = 0) -> None:
        super().__init__(what, transport_of(transport, what, seed), seed)
        self.completed: Counter[int] = Counter()
        self.came: Counter[int] = Counter()
        """Data packets that came to each link."""
        self._left_ps: Counter[int] = Counter()

    def packet(self, connection: Connection, now_ps: int) -> Packet:
        if isinstance(connection, Listener):
            assert 0 <= connection.recovery.in_flight < connection.congestion.window()
            assert now_ps >= connection.next_ps
        return super().packet(connection, now_ps)

    def forward(self, packet: Packet, link: int, leaves_ps: int) -> None:
        if not packet.passes:
            service = -(-8 * packet.wire_bytes * 10**12 // self._scene.rates.initial[link])
            assert leaves_ps >= self._left_ps[link] + service, "two packets are on one link at once"
            self._left_ps[link] = leaves_ps
        super().forward(packet, link, leaves_ps)

    def _delivered(self, connection: Connection, end_ps: int) -> None:
        self.completed[connection.flow.id] += 1
        super()._delivered(connection, end_ps)

    def run(self) -> Outcome:
        """Every flow is complete exactly once, and nothing is left over anywhere."""
        outcome = super().run()
        assert self.completed == Counter(record.id for record in outcome.flows)
        payload = Counter[int]()
        for connection in self._all:
            assert connection.left == 0
            payload[connection.flow.message.task] += connection.flow.bytes
            if isinstance(connection, Listener):
                assert connection.recovery.in_flight == 0
                assert not connection.recovery.pending()
        assert payload == Counter({i: task.bytes for i, task in enumerate(self._scene.tasks) if task.bytes})
        assert outcome.packets == sum(record.packets + record.retransmitted for record in outcome.flows)
        assert len(outcome.task_end_ps) == len(self._scene.tasks)
        return outcome


def random_traffic(seed: int, most: int = 20, **fields: Any) -> Scene:
    """A small fabric, oversubscribed now and then, on which many messages go to few hosts."""
    draw = random.Random(seed)
    leaves, spines, per_leaf = draw.randint(2, 3), draw.randint(1, 4), draw.randint(2, 4)
    rates = {"host_rate": "100Gbps", "fabric_rate": draw.choice(["100Gbps", "50Gbps"])}
    topology = fabric(leaves, spines, per_leaf, link_delay=draw.choice(["500ns", "0ns", "320ns"]), **rates | fields)
    tasks = []
    for _ in range(draw.randint(5, most)):
        src = draw.randrange(topology.hosts)
        dst = draw.choice([0, 1, draw.randrange(topology.hosts)])
        if src != dst:
            tasks.append(
                flow(src, dst, draw.choice([1, 4000, 39_999, draw.randint(1, 120_000)]), 320_000 * draw.randrange(9))
            )
    return scene(topology, tasks, scheduling=draw.choice(["round_robin", "sequential"]))


class HeldEngine(WatchedEngine):
    """Checks what switches hold."""

    def forward(self, packet, link, leaves_ps):
        links = self._links.queued
        assert isinstance(links, QueuedLinks)
        buffers = links._buffers
        most = [buffers._pause_above + headroom for headroom in buffers._headroom]
        assert all(0 <= held <= limit for held, limit in zip(buffers.held, most, strict=True))
        super().forward(packet, link, leaves_ps)

    def run(self):
        outcome = super().run()
        assert self._links.queued
        assert not any(self._links.queued._buffers.held)
        assert not any(self._links.queued._buffers.pause_sent)
        assert not any(nic.stopped or nic.ring for nic in self._nics.values())
        return outcome


def failing(what: Scene, *failures: dict[str, Any], **sections: Any) -> Scene:
    """The scene on a fabric with failures."""
    entries = [FailureConfig.model_validate(failure) for failure in failures]
    again = scene(what.topology, what.tasks, failures=entries)  # type: ignore[arg-type]
    return controlled(what._replace(rates=again.rates, routes=again.routes), **sections)
