"""Acknowledgements from receivers, and the reaction of senders to them and to timeouts."""

import copy
from collections.abc import Callable
from functools import cache, partial

import simpy

from netsim.congestion.credit import Credited, NdpConfig, ReceiverCreditConfig
from netsim.congestion.protocol import Ack, Congestion, RoundTrip
from netsim.congestion.timeout import Timeout
from netsim.engine.frontier import is_cut_off
from netsim.engine.protocol import Scene
from netsim.engine.reference.calendar import Calendar, Event, timer
from netsim.engine.reference.connection import Connection, Listener, Packet
from netsim.engine.reference.credit import FIRST_GRANT, Demand, Receivers
from netsim.engine.reference.trace import Trace, Traced
from netsim.engine.reference.watching import Rounds, WindowRecorder
from netsim.engine.watch import watched_tasks
from netsim.foundation.refusal import Refusal
from netsim.topology.protocol import Path
from netsim.transport.protocol import Flow, Transport

PATIENCE = 64
"""Timeouts in a row without progress after which a flow is checked for being cut off for good."""


class Feedback:
    """Acknowledgements and timers of all flows. Traffic inside a host is not acknowledged.

    `offer` is called when a flow may have something to send; `impatient` makes the error for a flow that has timed out
    as often in a row as the limits allow.
    """

    def __init__(
        self,
        scene: Scene,
        transport: Transport,
        calendar: Calendar,
        arrive: Callable[[simpy.Event], None],
        delivered: Callable[[Connection, int], None],
        offer: Callable[[Connection], None],
        impatient: Callable[[Listener], Refusal],
        trace: Trace | None,
    ) -> None:
        self._scene, self._transport, self._calendar = scene, transport, calendar
        self._arrive, self._delivered, self._offer, self._impatient = arrive, delivered, offer, impatient
        self._trace = trace
        self._moves = type(transport).on_timeout is not Transport.on_timeout
        self._listens = scene.listens or transport.needs_acknowledgements
        self._patience = min(PATIENCE, scene.limits.fruitless)
        congestion = scene.congestion
        self._notify_ps = congestion.notify_ps
        self._keeps = scene.congestion.keeps_state
        self._kept: dict[tuple[int, int, int], Congestion] = {}
        self.rounds = Rounds(scene)
        self._receivers = None
        if isinstance(congestion, ReceiverCreditConfig | NdpConfig):
            self._receivers = Receivers(scene, congestion, calendar, self._ask)
        self._round_trip = cache(self._round_trip_of)
        watched = [] if scene.watch is None else watched_tasks(scene.watch, scene.tasks.columns())
        self.windows = {task: WindowRecorder() for task in watched}
        self.on_receipt = [self._receive]
        self.on_control = [self._receive_ack]

    def connection(self, flow: Flow, packets: int, now_ps: int) -> Listener | None:
        """The connection of a flow that is acknowledged, None for one that is not."""
        path = flow.message.paths[flow.message.usable[0]]
        if not self._listens or len(path) == 1:
            return None
        congestion = self._control(flow, path, now_ps + flow.delay_ps)
        recovery = self._scene.recovery.recovery(packets)
        timeout = None if self._scene.recovery.kind == "none" else Timeout(self._scene.recovery)
        return Listener(flow, packets, now_ps, congestion, recovery, timeout)

    def _control(self, flow: Flow, path: Path, start_ps: int) -> Congestion:
        """The congestion control of a flow: new, or as the latest flow of its queue pair has it now."""
        message = flow.message
        queue_pair = message.src, message.dst, flow.id - message.task * self._transport.stride
        if (latest := self._kept.get(queue_pair)) is not None:
            control = copy.copy(latest)
            control.begin_message()
        else:
            trims = self._scene.flow_control.kind == "trim"
            control = self._scene.congestion.control(self._round_trip(path), start_ps, trims)
        if self._keeps:
            self._kept[queue_pair] = control
        return control

    def sent(self, connection: Listener, packet: Packet) -> None:
        """Called when a packet has left its host, before the flow takes its next turn in the ring."""
        now = self._calendar.now
        connection.next_ps = now + connection.congestion.gap_ps(packet.wire_bytes, now)
        if connection.timeout is not None and not connection.timer_runs:
            self._await_progress(connection)

    def keep_pace(self, connection: Listener) -> None:
        """Sets the pacing timer of a flow that is outside its host's ring because of its pace alone."""
        now = self._calendar.now
        if now < connection.next_ps and connection.wake_ps != connection.next_ps and connection.open():
            connection.wake_ps = connection.next_ps
            wake = Event(self._calendar, partial(self._wake, connection, connection.next_ps))
            wake.schedule(timer(connection.flow.id, pace=True), connection.next_ps)

    def _round_trip_of(self, path: Path) -> RoundTrip:
        scene = self._scene
        links = [scene.topology.links[link] for link in path]
        return RoundTrip.over(links, scene.packet.payload + scene.packet.header, scene.acknowledgement.size)

    def _receive(self, packet: simpy.Event) -> None:
        """Processes a packet at its receiver."""
        assert isinstance(packet, Packet)
        connection, now = packet.connection, self._calendar.now
        assert isinstance(connection, Listener)
        if self._trace is not None:
            self._trace.add(now, "received", packet.path[-1], packet)
        if packet.trimmed:
            if self._receivers:
                self._receivers.note(packet)
            self._acknowledge(packet, refusal=True, expected=0)
            return
        if packet.sequence < connection.highest:
            connection.reordered += 1
        else:
            connection.highest = packet.sequence
        reply = connection.recovery.received(packet.sequence)
        if reply.accepted:
            connection.left -= 1
            if not connection.left:
                connection.end_ps = now
                self._delivered(connection, now)
        if self._receivers:
            self._receivers.note(packet)
        if reply.refusal is not None:
            self._acknowledge(packet, reply.refusal, reply.expected)

    def _acknowledge(self, packet: Packet, refusal: bool, expected: int) -> None:
        """Sends the acknowledgement of a packet back along its path."""
        connection, now = packet.connection, self._calendar.now
        assert isinstance(connection, Listener)
        ack = self._control_packet(connection, packet, packet.serial)
        ack.refusal, ack.expected = refusal, expected
        ack.marked = packet.marked or packet.trimmed
        forgiven = packet.trimmed_last and self._transport.forgives_last_link
        ack.blames = packet.marked or (packet.trimmed and not forgiven)
        ack.sent_ps, ack.choice = packet.sent_ps, packet.choice
        ack.notified = False
        if self._notify_ps is not None and ack.marked and now - connection.notified_ps >= self._notify_ps:
            connection.notified_ps = now
            ack.notified = True
        self._arrive(ack)

    def _control_packet(self, connection: Listener, packet: Packet, serial: int) -> Packet:
        """A control packet that goes back along the path of a packet."""
        topology, acknowledgement = self._scene.topology, self._scene.acknowledgement
        path = tuple(topology.reverse(link) for link in reversed(packet.path))
        ack = Packet(connection, packet.sequence, serial, path, len(path), acknowledgement.size, control=True)
        ack.passes = acknowledgement.lane != "data"
        ack.granted = None
        return ack

    def _ask(self, connection: Listener, packet: Packet, demand: Demand) -> None:
        """Sends a credit back along the path of a packet."""
        ack = self._control_packet(connection, packet, FIRST_GRANT + demand.grants)
        ack.granted = demand.granted
        self._arrive(ack)

    def _receive_credit(self, connection: Listener, granted: int) -> None:
        """Processes a credit at the sender."""
        assert isinstance(connection.congestion, Credited)
        connection.congestion.on_credit(granted)
        if connection.timeout is not None:
            connection.deadline_ps = self._calendar.now + connection.timeout.lasts_ps()

    def _receive_ack(self, ack: simpy.Event) -> None:
        """Processes an acknowledgement at the sender."""
        assert isinstance(ack, Packet)
        connection, now = ack.connection, self._calendar.now
        assert isinstance(connection, Listener)
        if ack.granted is not None:
            self._receive_credit(connection, ack.granted)
            self._note("credited", connection, ack)
            self._continue(connection)
            return
        recovery = connection.recovery
        settle = recovery.refused if ack.refusal else recovery.acknowledged
        newly = settle(ack.sequence, ack.serial, ack.expected)
        if newly or ack.refusal:
            self.rounds.note(connection.flow.message.task, progress=newly > 0)
        if connection.timeout is not None:
            self._note_ack(connection, connection.timeout, ack, newly > 0)
        heard = Ack(newly, ack.marked, ack.notified, now - ack.sent_ps, now, ack.refusal, recovery.in_flight)
        connection.congestion.on_ack(heard)
        self._note("acknowledged", connection, ack)
        if (recorder := self._recorder(connection.flow)) is not None:
            recorder.add(now, connection.congestion.window(), recovery.in_flight, now - ack.sent_ps)
        if ack.choice is not None:
            self._transport.on_ack(connection.flow, ack.choice, ack.blames)
        self._continue(connection)

    def _note(self, what: str, connection: Listener, ack: Packet) -> None:
        if self._trace is not None:
            self._trace.add(self._calendar.now, what, -1, ack, connection.congestion.window())

    def _recorder(self, flow: Flow) -> WindowRecorder | None:
        """The recorder of a flow, if it is the first flow of a watched message; else None."""
        task = flow.message.task
        return self.windows.get(task) if flow.id == task * self._transport.stride else None

    def _note_ack(self, connection: Listener, timeout: Timeout, ack: Packet, progress: bool) -> None:
        """Moves the deadline of a flow. Progress ends a row of timeouts, so that their doubled timer is set anew."""
        now, doubled = self._calendar.now, timeout.fruitless > 0
        if not ack.refusal:
            timeout.measure(now - ack.sent_ps)
        if progress:
            timeout.fruitless = 0
        if progress or ack.refusal:
            connection.deadline_ps = now + timeout.lasts_ps()
        if progress and doubled and connection.timer_runs and connection.timer_ps > connection.deadline_ps:
            self._await_progress(connection)

    def _continue(self, connection: Listener) -> None:
        """Resumes a flow that is outside its host's ring, as soon as its pace allows."""
        if not connection.in_ring:
            self._offer(connection)
            self.keep_pace(connection)

    def _wake(self, connection: Listener, due_ps: int) -> None:
        if connection.wake_ps == due_ps:
            connection.wake_ps = -1
        self._continue(connection)

    def _await_progress(self, connection: Listener) -> None:
        connection.timer_runs, connection.timer_ps = True, connection.deadline_ps
        late = Event(self._calendar, partial(self._look_at_progress, connection))
        late.schedule(timer(connection.flow.id, pace=False), connection.deadline_ps)

    def _look_at_progress(self, connection: Listener) -> None:
        """Handles a retransmission timer that runs out, unless the deadline has moved or the flow is complete."""
        now, timeout = self._calendar.now, connection.timeout
        if timeout is None or not connection.timer_runs or connection.timer_ps != now:
            return
        connection.timer_runs = False
        if not connection.recovery.in_flight and not connection.starved():
            return
        if now < connection.deadline_ps:
            self._await_progress(connection)
            return
        connection.recovery.timed_out()
        connection.congestion.on_timeout(now)
        if self._trace is not None:
            window = connection.congestion.window()
            self._trace.append(Traced(now, "timed out", -1, connection.flow.id, -1, False, window))
        flow, hosts, routes = connection.flow, self._scene.hosts, self._scene.routes
        usable = routes.usable(hosts[flow.message.src], hosts[flow.message.dst], routes.epoch(now))
        connection.path = self._transport.on_timeout(flow, connection.path, usable, now)
        timeout.fruitless += 1
        if timeout.fruitless >= self._patience:
            connection.given_up = self._is_hopeless(connection, timeout, usable, now)
        self._continue(connection)

    def _is_hopeless(self, connection: Listener, timeout: Timeout, usable: tuple[int, ...], now: int) -> bool:
        """Whether more timeouts are useless: the flow is cut off, or has arrived but gets no acknowledgement."""
        taken = usable if connection.path is None or self._moves else (connection.path,)
        if is_cut_off(self._scene, connection.flow.message.paths, taken, now):
            return True
        if timeout.fruitless < self._scene.limits.fruitless:
            return False
        if connection.left:
            raise self._impatient(connection)
        return True
