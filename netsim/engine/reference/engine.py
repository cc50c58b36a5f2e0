"""Packet-level engine on simpy: the plain definition of a run, with which faster engines must agree exactly.

Store and forward. A packet costs one callback a link: it finds the link's free time, adds its service time, and comes
back at the next link, or is lost. Order within one instant: `netsim.engine.reference.calendar`.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import cache, partial
from typing import Literal

import numpy as np
import simpy

from netsim.draws import Draws, Purpose
from netsim.engine.frontier import Frontier
from netsim.engine.limits import NO_LIMIT, Clock, Pulse, Waiting, missing, not_begun, reached
from netsim.engine.protocol import FLOW, LINK, Losses, Outcome, Scene
from netsim.engine.queue_series import QueueRecorder
from netsim.engine.reference.calendar import FIRST, LAST, RELEASE, Calendar, Event, late_start
from netsim.engine.reference.conditions import FULL, LOST, Conditions
from netsim.engine.reference.connection import Connection, Listener, Packet
from netsim.engine.reference.feedback import Feedback
from netsim.engine.reference.nic import Nic
from netsim.engine.reference.queued import QueuedLinks
from netsim.engine.reference.watching import LinkRecorder
from netsim.engine.stalled import stalled
from netsim.engine.watch import Watched
from netsim.errors import InputError
from netsim.topology.protocol import Path, places, sources
from netsim.transport.protocol import Flow, Release, Transport
from netsim.units import service_ps

_EVENTS_BETWEEN_LOOKS = 4096
"""Events from one look at the clock to the next."""


class ReferenceEngine:
    """One run.

    Args:
        scene: Tasks and fabric.
        transport: Path choice.
        seed: Seed of the run, for the order of destinations and for marks.
        report: Called now and then with how far the run is.
    """

    def __init__(
        self, scene: Scene, transport: Transport, seed: int, report: Callable[[Pulse], None] | None = None
    ) -> None:
        self._scene, self._transport = scene, transport
        self._clock = Clock(scene.limits, report)
        self._calendar = Calendar()
        self._order = Draws(seed, Purpose.DESTINATION_ORDER)
        links = scene.topology.links
        self._rate = scene.rates.initial
        self._delay = [link.delay_ps for link in links]
        self._place = places(scene.topology)
        self._at_switch = [not link.src.startswith("host") for link in links]
        self._source = sources(scene.topology)
        self._free = [0] * len(links)
        self._lane_free = [0] * len(links)
        self._bytes = [0] * len(links)
        self._busy = [0] * len(links)
        self._peak = [0] * len(links)
        self._queues = QueueRecorder()
        self._carried = LinkRecorder(len(links) if scene.watch is not None and scene.watch.links else 0)
        self._conditions = Conditions(scene, transport, seed)
        self._nics: dict[int, Nic] = {}
        self._last: dict[int, tuple[Packet, int]] = {}
        self._frontier = Frontier(scene.tasks)
        self._ends_early = scene.ends_early
        self._is_over = False
        self._flows_left = [0] * len(scene.tasks)
        self._task_end = [0] * len(scene.tasks)
        self._released: list[int] = []
        self._all: list[Connection] = []
        self._hops = self._control_hops = self._packets = 0
        self._dropped = self._trimmed = self._marked = 0
        self._on_arrival = [self._arrive]
        told = self._arrive, self._delivered, self._offer, self._impatient
        self._feedback = Feedback(scene, transport, self._calendar, *told)
        self._queued = None
        if scene.queues:
            self._queued = QueuedLinks(scene, self._calendar, self._nics, self._conditions, self)

    def run(self) -> Outcome:
        """Simulates until all tasks are done.

        Raises:
            InputError: Some never are, or the run has reached a limit.
        """
        if self._scene.limits.simulated < NO_LIMIT:
            Event(self._calendar, self._end_in_time).schedule(LAST, self._scene.limits.simulated)
        self._begin(self._frontier.roots)
        while not self._is_over and self._calendar.steps(_EVENTS_BETWEEN_LOOKS):
            if self._clock.is_over(self._pulse()) and self._frontier.undone:
                raise self._reached("wall")
        if self._frontier.undone:
            raise stalled(self._scene, self._frontier.waiting())
        if self._ends_early:
            left = [flow.left for flow in sorted(self._all, key=lambda connection: connection.flow.id)]
            return self._outcome().without_rest(self._calendar.now, np.array(left), self._scene.tasks.in_background)
        return self._outcome()

    def _outcome(self) -> Outcome:
        retransmitted = sum(connection.retransmitted for connection in self._all)
        paused = self._queued.paused_ps if self._queued else [0] * len(self._free)
        links = np.array(list(zip(self._bytes, self._busy, self._peak, paused, strict=True)), dtype=LINK)
        flows = sorted(self._all, key=lambda connection: connection.flow.id)
        return Outcome(
            completion_ps=max(self._task_end, default=0),
            task_end_ps=np.array(self._task_end, dtype=np.int64),
            packets=self._packets,
            packet_hops=self._hops,
            control_hops=self._control_hops,
            losses=Losses(self._dropped, self._trimmed, self._marked, retransmitted),
            flows=np.array([_record(connection) for connection in flows], dtype=FLOW).view(np.recarray),
            links=links.view(np.recarray),
            queues=self._queues.series(),
            last_sent={link: self._rest(packet, size) for link, (packet, size) in self._last.items()},
            watched=self._watched(),
        )

    def _watched(self) -> Watched | None:
        windows = self._feedback.windows
        if self._scene.watch is None:
            return None
        return Watched(*self._carried.series(), [*windows], [recorder.samples() for recorder in windows.values()])

    def _pulse(self) -> Pulse:
        tasks = len(self._scene.tasks)
        return Pulse(self._calendar.now, tasks - self._frontier.undone, tasks)

    def _end_in_time(self) -> None:
        """Called at the end of the limit of simulated time."""
        if self._frontier.undone and self._calendar.peek() < NO_LIMIT:
            raise self._reached("simulated")

    def _impatient(self, connection: Connection) -> InputError:
        return self._reached("fruitless", connection.flow.message.task)

    def _reached(self, which: Literal["simulated", "wall", "fruitless"], task: int | None = None) -> InputError:
        """The error for a limit that was reached; without a task the first that waits is named."""
        index = min(self._frontier.waiting()) if task is None else task
        waits = self._scene.tasks[index]
        flows = [connection for connection in self._all if connection.flow.message.task == index and connection.left]
        timeouts = [flow.timeout.fruitless for flow in flows if isinstance(flow, Listener) and flow.timeout is not None]
        packets = sum(connection.packets for connection in self._all if connection.flow.message.task == index)
        why = missing(packets, max(timeouts, default=0))
        if not packets:
            why = not_begun(waits.delay_ps)
        return reached(self._scene.limits, which, self._pulse(), Waiting(waits.src, waits.dst, waits.bytes, why))

    def _begin(self, ready: list[int]) -> None:
        """Starts tasks that wait for nothing but their delay."""
        at_once = list(ready)
        while at_once:
            index = at_once.pop()
            delay_ps = self._scene.tasks[index].delay_ps
            if delay_ps:
                Event(self._calendar, partial(self._move, index)).schedule(FIRST, self._calendar.now + delay_ps)
            else:
                at_once += self._move_or_finish(index)

    def _move(self, index: int) -> None:
        self._begin(self._move_or_finish(index))
        self._end_early()

    def _end_early(self) -> None:
        """Ends the run if only background traffic is left."""
        if self._ends_early and not self._frontier.undone:
            self._is_over = True
            self._calendar.end()

    def _move_or_finish(self, index: int) -> list[int]:
        """Releases a task's message. A task without one is done; returns the tasks that now wait for nothing."""
        if not self._scene.tasks[index].bytes:
            self._task_end[index] = self._calendar.now
            return self._frontier.done(index)
        if not self._released:
            Event(self._calendar, self._admit).schedule(RELEASE, self._calendar.now)
        self._released.append(index)
        return []

    def _done(self, index: int) -> None:
        self._begin(self._frontier.done(index))
        self._end_early()

    def _admit(self) -> None:
        """Hands the messages released in this instant, host by host, to the transport and the hosts' rings."""
        scene, now = self._scene, self._calendar.now
        epoch = scene.routes.epoch(now)
        by_nic: dict[int, list[Release]] = defaultdict(list)
        for index in sorted(self._released):
            task = scene.tasks[index]
            src, dst = scene.hosts[task.src], scene.hosts[task.dst]
            paths = scene.routes.paths(src, dst)
            usable = scene.routes.usable(src, dst, epoch)
            leaves, places = (scene.topology.leaf(dst), scene.topology.leaf(src)), (self._place[src], self._place[dst])
            ends = leaves[1], *places, scene.routes.minimal(leaves[1], leaves[0])
            like = None if scene.tasks.keys is None else int(scene.tasks.keys[index])
            release = Release(index, task.src, task.dst, leaves[0], task.bytes, paths, usable, *ends, like)
            by_nic[paths[0][0]].append(release)
        self._released.clear()
        for link, released in by_nic.items():
            flows = self._admitted(released, now)
            for flow in flows if self._transport.orders_flows else sorted(flows, key=self._turn):
                packets = -(-flow.bytes // scene.packet.payload)
                connection = self._feedback.connection(flow, packets, now) or Connection(flow, packets, now)
                connection.key = self._transport.key_of(flow)
                connection.traffic_class = scene.tasks[flow.message.task].traffic_class
                self._flows_left[flow.message.task] += 1
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
                    nic.look_at(max(now, self._free[link]))

    def _nic(self, link: int, traffic_class: int) -> Nic:
        """The ring of a class at a host's link."""
        key = link * self._scene.classes + traffic_class
        if key not in self._nics:
            self._nics[key] = Nic(self._calendar, link, key, self._send)
            self._nics[key].stopped = self._queued is not None and self._queued.is_stopped(key)
        return self._nics[key]

    def _admitted(self, released: list[Release], now: int) -> list[Flow]:
        flows = self._transport.admit(released, now)
        released_bytes, carried = sum(message.bytes for message in released), sum(flow.bytes for flow in flows)
        if carried != released_bytes:
            problem = f"{type(self._transport).__name__}.admit carries {carried} B of {released_bytes} B"
            raise InputError("scenario", "transports", problem, "return flows with all bytes of the messages")
        return flows

    def _turn(self, flow: Flow) -> tuple[int, int]:
        """Place of a flow among those its host releases together."""
        if self._scene.nic.destinations == "random":
            return self._order(self._transport.key_of(flow)), flow.id
        hosts = self._scene.hosts
        return (hosts[flow.message.dst] - hosts[flow.message.src]) % self._scene.topology.hosts, flow.id

    def _offer(self, connection: Connection) -> None:
        """Puts a flow into its host's ring, if it has a packet to send and is not in the ring."""
        if not connection.in_ring and connection.ready(self._calendar.now):
            nic = self._nic(connection.flow.message.paths[0][0], connection.traffic_class)
            nic.join(connection)
            nic.look_at(max(self._calendar.now, self._free[nic.link]))

    def _send(self, nic: Nic) -> None:
        """Sends the next packet of a ring if the link is free, and looks again when it is free again."""
        now, free = self._calendar.now, self._free[nic.link]
        if nic.stopped:
            return
        if free > now:
            nic.look_at(free)
            return
        connection = nic.ready(now)
        if connection is None:
            return
        packet = self._packet(connection, now)
        self._last[nic.link] = packet, packet.wire_bytes
        self._packets += 1
        self._arrive(packet)
        if isinstance(connection, Listener):
            self._feedback.sent(connection, packet)
        out = nic.turn(now, self._scene.nic.scheduling == "round_robin")
        if isinstance(out, Listener):
            self._feedback.keep_pace(out)
        if nic.ring:
            nic.look_at(max(now, self._free[nic.link]))

    def _packet(self, connection: Connection, now: int) -> Packet:
        """The packet that leaves now, with its path; if switches choose, with its first link only."""
        flow, serial, config = connection.flow, connection.serial, self._scene.packet
        sequence = connection.take(now)
        payload = min(config.payload, flow.bytes - sequence * config.payload)
        paths = flow.message.paths
        usable = self._usable(flow, now)
        choice: int | None = None
        if connection.path is not None:
            if connection.path not in usable:
                connection.path = self._transport.choose_path(flow, serial, usable, now)
            choice = connection.path
        elif not (self._transport.at_switch or self._transport.at_first_switch):
            choice = self._transport.choose_path(flow, serial, usable, now)
        path = paths[0][:1] if choice is None else paths[choice]
        wire_bytes = payload + config.header
        links = len(paths[usable[0]] if choice is None else path)
        packet = Packet(connection, sequence, serial, path, links, wire_bytes, control=False)
        packet.choice, packet.usable, packet.sent_ps = choice, usable, now
        return packet

    def _usable(self, flow: Flow, now: int) -> tuple[int, ...]:
        routes, message = self._scene.routes, flow.message
        if len(routes.times) == 1:
            return message.usable
        hosts = self._scene.hosts
        return routes.usable(hosts[message.src], hosts[message.dst], routes.epoch(now))

    def _arrive(self, packet: simpy.Event) -> None:
        """Adds a packet to the queue of its next link; its departure, or its loss, is known at once."""
        assert isinstance(packet, Packet)
        now = self._calendar.now
        hop = packet.hop
        if hop == len(packet.path):
            self._go_on(packet, now)
        link = packet.path[hop]
        if packet.passes:
            self._pass(packet, link, now)
            return
        if self._queued:
            self._queued.join(packet, link, now)
            return
        free = self._free[link]
        start = free if free > now else now
        if self._conditions.indifferent:
            service = -(-packet.work // self._rate[link])
        else:
            service = self._conditions.service_ps(link, packet.wire_bytes, now, start, self._at_switch[link])
            if service < 0:
                self._lose(packet, link, service, now, start)
                return
            self.mark(packet, link, start - now, start)
        repeats = self._conditions.repeats(link, packet.connection.key, packet.serial, packet.control)
        if repeats > 0:
            service += self._conditions.repeating_ps(link, service, repeats)
        self._free[link] = leaves = start + service
        self.count(packet, link, service, leaves - now, now)
        if repeats == LOST:
            self.drop()
            return
        self.forward(packet, link, leaves)

    def mark(self, packet: Packet, link: int, backlog_ps: int, start_ps: int) -> None:
        """Marks a data packet if the queue that it finds at a switch is long."""
        if packet.control or packet.marked or not self._at_switch[link]:
            return
        if self._conditions.marks(link, packet.connection.key, packet.serial, backlog_ps, start_ps):
            packet.marked = True
            self._marked += 1

    def count(self, packet: Packet, link: int, service_ps: int, queue_ps: int, now_ps: int) -> None:
        """Records the bytes that a link carries, and the queue that a packet has joined."""
        self._busy[link] += service_ps
        self._bytes[link] += packet.wire_bytes
        if queue_ps > self._peak[link]:
            self._peak[link] = queue_ps
        if packet.control:
            self._control_hops += 1
        else:
            self._hops += 1
        if self._at_switch[link]:
            self._queues.add(now_ps, queue_ps)

    def forward(self, packet: Packet, link: int, leaves_ps: int) -> None:
        """Forwards a packet whose last bit leaves a link at `leaves_ps`, which may be in the future."""
        arrives = leaves_ps + self._delay[link]
        packet.hop += 1
        if not packet.control:
            self._carried.add(link, leaves_ps, packet.wire_bytes)
        if packet.hop < packet.links:
            packet.callbacks = self._on_arrival
        elif isinstance(packet.connection, Listener):
            packet.callbacks = self._feedback.on_news if packet.control else self._feedback.on_receipt
        else:
            self._deliver(packet, arrives)
            return
        self._calendar.schedule(packet, packet.key, arrives - self._calendar.now)

    def _pass(self, packet: Packet, link: int, now: int) -> None:
        """Sends a packet of the control lane over a link: see `AcknowledgementConfig`."""
        rate = self._scene.rates.at(link, now)
        service = service_ps(packet.wire_bytes, rate) if rate else 0
        if self._scene.rates.next_down(link, now) < now + service or not rate:
            self._dropped += 1
            return
        leaves = now + service
        if self._scene.acknowledgement.lane == "priority" and not self._queued:
            leaves = self._lane_free[link] = max(self._lane_free[link], now) + service
            self._free[link] = max(self._free[link], now) + service
            self._busy[link] += service
        self._bytes[link] += packet.wire_bytes
        self._control_hops += 1
        self.forward(packet, link, leaves)

    def _go_on(self, packet: Packet, now: int) -> None:
        """Extends the path of a packet by what the switch chooses where the packet is."""
        flow, hop, taken = packet.connection.flow, packet.hop, packet.path
        paths, backlog_ps = flow.message.paths, partial(self._backlog, packet.connection.traffic_class, now)
        if self._transport.at_first_switch:
            packet.path = paths[self._transport.choose_way(flow, packet.serial, packet.usable, backlog_ps)]
            packet.links = len(packet.path)
            return
        ahead = [paths[index] for index in packet.usable if paths[index][:hop] == taken]
        links = tuple(dict.fromkeys(path[hop] for path in ahead))
        link = links[0]
        if len(links) > 1:
            link = self._transport.choose_link(flow, packet.serial, self._source[link], links, backlog_ps, now)
        packet.path += (link,)
        packet.links = next(len(path) for path in ahead if path[hop] == link)

    def _backlog(self, traffic_class: int, now: int, link: int) -> int:
        if self._queued:
            return self._queued.backlog_ps(link, traffic_class, now)
        return max(0, self._free[link] - now)

    def _lose(self, packet: Packet, link: int, why: int, now: int, start: int) -> None:
        """Loses a packet, or trims it to its header."""
        trim = self._scene.flow_control
        if why == FULL and trim.kind == "trim" and not packet.control:
            self._trimmed += 1
            packet.trimmed = packet.passes = True
            packet.trimmed_last = packet.hop == packet.links - 1
            packet.wire_bytes = trim.header
            self._pass(packet, link, now)
            return
        if why == LOST and not self._at_switch[link]:
            self._free[link] = start + service_ps(packet.wire_bytes, self._rate[link])
        self.drop()

    def refuse(self, packet: Packet, link: int, now_ps: int) -> None:
        """Drops or trims a packet for which a switch has no room."""
        self._lose(packet, link, FULL, now_ps, now_ps)

    def drop(self) -> None:
        """Counts a dropped packet."""
        self._dropped += 1

    def free_at(self, link: int, time_ps: int) -> None:
        """Makes a link with queues busy until `time_ps`."""
        self._free[link] = time_ps

    def look(self, nic: Nic) -> None:
        """Resumes a host's link that was paused."""
        nic.look_at(max(self._calendar.now, self._free[nic.link]))

    def _deliver(self, packet: Packet, arrives: int) -> None:
        """Records the arrival of a packet that is not acknowledged; `arrives` may be in the future."""
        connection = packet.connection
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
        task = connection.flow.message.task
        self._flows_left[task] -= 1
        self._task_end[task] = max(self._task_end[task], end_ps)
        if not self._flows_left[task]:
            Event(self._calendar, partial(self._done, task)).schedule(FIRST, self._task_end[task])

    @cache  # noqa: B019
    def _alone(self, path: Path, wire_bytes: int) -> int:
        rest = (service_ps(wire_bytes, self._rate[link]) + self._delay[link] for link in path[1:])
        return self._delay[path[0]] + sum(rest)

    def _rest(self, packet: Packet, size: int) -> int:
        if packet.choice is not None:
            return self._alone(packet.connection.flow.message.paths[packet.choice], size)
        paths = packet.connection.flow.message.paths
        return min(self._alone(paths[index], size) for index in packet.usable)


def _record(connection: Connection) -> tuple[int, ...]:
    flow, message = connection.flow, connection.flow.message
    ends = connection.start_ps, connection.end_ps, connection.reordered, connection.retransmitted
    return flow.id, message.task, message.src, message.dst, flow.bytes, connection.packets, *ends
