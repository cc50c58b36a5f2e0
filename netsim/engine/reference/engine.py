"""Packet-level engine on simpy: the plain definition of a run, with which faster engines must agree exactly.

Store and forward. A packet costs one callback a link: it finds the link's free time, adds its service time, and comes
back at the next link, or is lost. Order within one instant: `netsim.engine.reference.calendar`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from netsim.engine.frontier import stalled
from netsim.engine.limits import NO_LIMIT, Clock, Pulse, Waiting, Which, missing, not_begun, reached, refused
from netsim.engine.protocol import FLOW, Losses, Outcome, Scene
from netsim.engine.reference.calendar import LAST, Calendar, Event, late_start
from netsim.engine.reference.conditions import Conditions
from netsim.engine.reference.connection import Connection, Listener, Packet, Routes
from netsim.engine.reference.feedback import Feedback
from netsim.engine.reference.links import Links
from netsim.engine.reference.messages import Admission, Messages
from netsim.engine.reference.nic import Nic, Turns
from netsim.engine.reference.trace import Trace
from netsim.engine.watch import Watched
from netsim.foundation.refusal import Refusal
from netsim.transport.protocol import Transport

_EVENTS_BETWEEN_LOOKS = 4096
"""Events between two reads of the clock."""


class ReferenceEngine:
    """One run; the seed is that of the order of destinations and of marks."""

    def __init__(
        self,
        scene: Scene,
        transport: Transport,
        seed: int,
        report: Callable[[Pulse], None] | None = None,
        trace: Trace | None = None,
    ) -> None:
        self._scene = scene
        self._clock = Clock(scene.limits, report)
        self._calendar, self._trace = Calendar(), trace
        self._nics: dict[int, Nic] = {}
        self._turns: dict[int, Turns] = {}
        self._last: dict[int, tuple[Packet, int]] = {}
        self._quanta = scene.quanta
        self._all: list[Connection] = []
        self._packets = 0
        self._messages = Messages(scene, self._calendar, self._admit)
        self._key_of = transport.key_of
        self._admission = Admission(scene, transport, seed)
        self._routes = Routes(scene, transport)
        conditions = Conditions(scene, transport, seed)
        self._links = Links(scene, self._calendar, self._routes, conditions, self._nics, self._end, trace)
        calls = self._links.arrive, self._delivered, self._offer, self._impatient
        self._feedback = Feedback(scene, transport, self._calendar, *calls, trace)

    def run(self) -> Outcome:
        """Simulates until all tasks are done."""
        if self._scene.limits.simulated < NO_LIMIT:
            Event(self._calendar, self._end_in_time).schedule(LAST, self._scene.limits.simulated)
        self._messages.begin()
        while not self._messages.is_over and self._calendar.steps(_EVENTS_BETWEEN_LOOKS, self._until_ps()):
            self._begin_round()
            if self._clock.is_over(self._pulse()) and self._messages.undone:
                raise self._reached("wall")
        if self._messages.undone:
            raise stalled(self._scene, self._messages.waiting())
        if self._scene.ends_early:
            left = [flow.left for flow in sorted(self._all, key=lambda connection: connection.flow.id)]
            return self._outcome().without_rest(self._calendar.now, np.array(left), self._scene.tasks.in_background)
        return self._outcome()

    def _outcome(self) -> Outcome:
        links, end_ps = self._links, self._messages.end_ps
        retransmitted = sum(connection.retransmitted for connection in self._all)
        flows = sorted(self._all, key=lambda connection: connection.flow.id)
        return Outcome(
            completion_ps=max(end_ps, default=0),
            task_end_ps=np.array(end_ps, dtype=np.int64),
            packets=self._packets,
            packet_hops=links.hops,
            control_hops=links.control_hops,
            losses=Losses(links.dropped, links.trimmed, links.marked, retransmitted),
            flows=np.array([_record(connection) for connection in flows], dtype=FLOW).view(np.recarray),
            links=links.figures().view(np.recarray),
            queues=links.queues(),
            last_sent={link: links.rest_ps(packet, size) for link, (packet, size) in self._last.items()},
            watched=self._watched(),
        )

    def _watched(self) -> Watched | None:
        windows = self._feedback.windows
        if self._scene.watch is None:
            return None
        return Watched(*self._links.carried(), [*windows], [recorder.samples() for recorder in windows.values()])

    def _pulse(self) -> Pulse:
        tasks = len(self._scene.tasks)
        return Pulse(self._calendar.now, tasks - self._messages.undone, tasks)

    def _end_in_time(self) -> None:
        """Called at the end of the limit of simulated time."""
        if self._messages.undone and self._calendar.peek() < NO_LIMIT:
            raise self._reached("simulated")

    def _until_ps(self) -> int:
        """Time until which the run continues without a check: the end of its round."""
        return self._feedback.rounds.end_ps if self._messages.undone else NO_LIMIT

    def _begin_round(self) -> None:
        """Begins the next round if this one is over."""
        rounds, next_ps = self._feedback.rounds, self._calendar.peek()
        if rounds.end_ps < next_ps < NO_LIMIT and self._messages.undone and not rounds.next(int(next_ps)):
            waits = rounds.refused in self._messages.waiting()
            raise self._reached("refused", rounds.refused if waits else None)

    def _impatient(self, connection: Connection) -> Refusal:
        return self._reached("fruitless", connection.flow.message.task)

    def _reached(self, which: Which, task: int | None = None) -> Refusal:
        """The error for a limit that was reached; without a task the first that waits is named."""
        index, pulse = min(self._messages.waiting()) if task is None else task, self._pulse()
        waits = self._scene.tasks[index]
        flows = [connection for connection in self._all if connection.flow.message.task == index and connection.left]
        timeouts = [flow.timeout.fruitless for flow in flows if isinstance(flow, Listener) and flow.timeout is not None]
        packets = sum(connection.packets for connection in self._all if connection.flow.message.task == index)
        why = missing(packets, max(timeouts, default=0))
        if which == "refused":
            why = refused(packets, self._scene.limits.fruitless)
            pulse = pulse._replace(now_ps=self._feedback.rounds.end_ps + 1)
        if not packets:
            why = not_begun(waits.delay_ps)
        return reached(self._scene.limits, which, pulse, Waiting(waits.src, waits.dst, waits.bytes, why))

    def _admit(self, released: list[int]) -> None:
        """Puts the flows of messages that may leave now into the rings of their hosts."""
        scene, now = self._scene, self._calendar.now
        for link, flows in self._admission.flows(released, now).items():
            for flow in flows:
                packets = -(-flow.bytes // scene.packet.payload)
                connection = self._feedback.connection(flow, packets, now) or Connection(flow, packets, now)
                connection.key = self._key_of(flow)
                connection.traffic_class = scene.tasks[flow.message.task].traffic_class
                self._messages.expect(flow.message.task)
                self._all.append(connection)
                nic = self._nic(link, connection.traffic_class)
                if flow.delay_ps:
                    start = Event(self._calendar, partial(self._offer, connection))
                    start.schedule(late_start(flow.id), now + flow.delay_ps)
                else:
                    nic.join(connection)
            for traffic_class in range(scene.classes):
                nic = self._nics.get(link * scene.classes + traffic_class)
                if nic and nic.ring:
                    self._links.look(nic)

    def _nic(self, link: int, traffic_class: int) -> Nic:
        """The ring of a class at a host's link."""
        key, queued = link * self._scene.classes + traffic_class, self._links.queued
        if key not in self._nics:
            self._nics[key] = Nic(self._calendar, link, key, self._send)
            self._nics[key].stopped = queued is not None and queued.is_stopped(key)
        return self._nics[key]

    def _offer(self, connection: Connection) -> None:
        """Puts a flow into its host's ring, if it has a packet to send and is not in the ring."""
        if not connection.in_ring and connection.ready(self._calendar.now):
            nic = self._nic(connection.flow.message.paths[0][0], connection.traffic_class)
            nic.join(connection)
            self._links.look(nic)

    def _send(self, nic: Nic) -> None:
        """Sends the next packet of a ring if the link is free, and looks again when it is free again."""
        now, free = self._calendar.now, self._links.free_ps[nic.link]
        if nic.stopped:
            return
        if free > now:
            nic.look_at(free)
            return
        connection = nic.ready(now)
        if connection is None:
            return
        traffic_class = connection.traffic_class
        if self._takes_turns(traffic_class) and self._whose_turn(nic.link, now) != traffic_class:
            nic.look_at(now + 1)
            return
        packet = self._routes.packet(connection, now)
        self._last[nic.link] = packet, packet.wire_bytes
        self._packets += 1
        self._links.arrive(packet)
        if isinstance(connection, Listener):
            self._feedback.sent(connection, packet)
        out = nic.turn(now, self._scene.nic.scheduling == "round_robin")
        if isinstance(out, Listener):
            self._feedback.keep_pace(out)
        if self._takes_turns(traffic_class):
            self._turns[nic.link].sent(traffic_class, packet.wire_bytes, bool(nic.ring))
        if nic.ring:
            self._links.look(nic)

    def _takes_turns(self, traffic_class: int) -> bool:
        """Whether a class takes turns by deficit round robin."""
        return bool(self._quanta) and self._quanta[traffic_class] > 0

    def _whose_turn(self, link: int, now: int) -> int | None:
        """The class whose ring sends next on a host's link that is free.

        All rings of the link look for a packet in this instant, the first class first. The next packet is not known
        yet, so that the rest of a class's quantum must cover a full packet.
        """
        scene, needs = self._scene, list[int | None]()
        for traffic_class in range(scene.classes):
            nic = self._nics.get(link * scene.classes + traffic_class)
            sends = nic and not nic.stopped and self._takes_turns(traffic_class) and nic.ready(now)
            needs.append(scene.packet.payload + scene.packet.header if sends else None)
        if link not in self._turns:
            self._turns[link] = Turns(self._quanta)
        return self._turns[link].next(needs)

    def _end(self, packet: Packet, arrives: int) -> None:
        """Hands a packet to its receiver, or a control packet to the sender; `arrives` may be in the future."""
        if isinstance(packet.connection, Listener):
            packet.callbacks = self._feedback.on_control if packet.control else self._feedback.on_receipt
            self._calendar.schedule(packet, packet.key, arrives - self._calendar.now)
        else:
            self._deliver(packet, arrives)

    def _deliver(self, packet: Packet, arrives: int) -> None:
        """Records the arrival of a packet that is not acknowledged."""
        connection = packet.connection
        if self._trace is not None:
            self._trace.add(arrives, "received", packet.path[-1], packet)
        if packet.sequence < connection.highest:
            connection.reordered += 1
        else:
            connection.highest = packet.sequence
        connection.left -= 1
        connection.end_ps = max(connection.end_ps, arrives)
        if not connection.left:
            self._delivered(connection, connection.end_ps)

    def _delivered(self, connection: Connection, end_ps: int) -> None:
        """Completes a flow at its receiver."""
        self._messages.delivered(connection.flow.message.task, end_ps)


def _record(connection: Connection) -> tuple[int, ...]:
    flow, message = connection.flow, connection.flow.message
    ends = connection.start_ps, connection.end_ps, connection.reordered, connection.retransmitted
    return flow.id, message.task, message.src, message.dst, flow.bytes, connection.packets, *ends
