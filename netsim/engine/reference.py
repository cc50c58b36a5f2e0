"""Packet-level engine on simpy: the plainest statement of what a run is; faster engines must agree with it exactly.

Store and forward, unlimited first-in first-out queues, no loss. A packet costs one callback a link: it finds the link's
free time, adds its service time, and comes back at the next link. Order within one instant, by simpy's priority:

1. packets arrive at links, by (flow id, sequence), and messages are done;
2. messages that may leave now join their host's ring of flows;
3. links that hosts send on, if idle, take the next packet from their ring.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial

import simpy
from simpy.events import EventPriority

from netsim.draws import Draws, Purpose
from netsim.engine.frontier import Frontier
from netsim.engine.protocol import FlowRecord, LinkRecord, Outcome, Scene
from netsim.topology.protocol import Path
from netsim.transport.protocol import Flow, Release, Transport
from netsim.units import PICOSECONDS_PER_SECOND, service_ps

_SEQUENCE_BITS = 32
_FIRST = EventPriority(0)
_RELEASE = EventPriority(1 << 128)
_SEND = EventPriority(_RELEASE + 1)
_PS_BITS = 8 * PICOSECONDS_PER_SECOND


class _Calendar(simpy.Environment):
    """simpy's calendar in whole picoseconds."""

    @property
    def now(self) -> int:
        """Current time in picoseconds."""
        return int(self._now)


class _Event(simpy.Event):
    """A simpy event that happens at a chosen time and priority, and may be scheduled again after it has happened."""

    _ok = True

    def __init__(self, env: _Calendar, call: Callable[[], None]) -> None:
        self._calendar = env
        self._calls = [lambda _: call()]

    def schedule(self, priority: EventPriority, time_ps: int) -> None:
        """Puts the event on the calendar."""
        self.callbacks = self._calls
        self._calendar.schedule(self, priority, time_ps - self._calendar.now)


class _Sending:
    """A flow on its way."""

    __slots__ = ("end_ps", "flow", "highest", "left", "next", "packets", "path", "reordered", "start_ps")

    def __init__(self, flow: Flow, packets: int, start_ps: int) -> None:
        self.flow = flow
        self.path = None if flow.path is None else flow.message.paths[flow.path]
        self.packets = self.left = packets
        self.next = 0
        self.highest = -1
        self.reordered = 0
        self.start_ps = start_ps
        self.end_ps = start_ps


class _Packet(simpy.Event):
    """A packet; simpy calls it at each link it arrives at."""

    __slots__ = ("callbacks", "hop", "key", "path", "sending", "sequence", "wire_bytes", "work")
    _ok = True

    def __init__(self, sending: _Sending, sequence: int, path: Path, wire_bytes: int) -> None:
        self.sending = sending
        self.sequence = sequence
        self.path = path
        self.hop = 0
        self.wire_bytes = wire_bytes
        self.work = wire_bytes * _PS_BITS
        self.key = EventPriority(sending.flow.id << _SEQUENCE_BITS | sequence)


class _Nic:
    """The sending side of a host's link: a ring of flows."""

    def __init__(self, env: _Calendar, send: Callable[["_Nic"], None], link: int) -> None:
        self.link = link
        self.ring: deque[_Sending] = deque()
        self.idle = True
        self.last: _Packet | None = None
        self.free_again = _Event(env, lambda: send(self))


class ReferenceEngine:
    """One run.

    Args:
        scene: What must happen, and where.
        transport: Path choice.
        seed: Seed of the run, for the order of destinations.
    """

    def __init__(self, scene: Scene, transport: Transport, seed: int) -> None:
        self._scene, self._transport = scene, transport
        self._env = _Calendar()
        self._order = Draws(seed, Purpose.DESTINATION_ORDER)
        links = scene.topology.links
        self._rate = [link.rate_bps for link in links]
        self._delay = [link.delay_ps for link in links]
        self._free = [0] * len(links)
        self._bytes = [0] * len(links)
        self._busy = [0] * len(links)
        self._peak = [0] * len(links)
        self._nics: dict[int, _Nic] = {}
        self._frontier = Frontier(scene.tasks)
        self._flows_left = [0] * len(scene.tasks)
        self._task_end = [0] * len(scene.tasks)
        self._released: list[int] = []
        self._on_arrival = [self._arrive]
        self._all: list[_Sending] = []
        self._hops = 0
        self._packets = 0

    def run(self) -> Outcome:
        """Simulates until all tasks are done."""
        self._begin(self._frontier.roots)
        self._env.run()
        assert not self._frontier.undone, "tasks wait for each other in a circle"
        return Outcome(
            completion_ps=max(self._task_end, default=0),
            task_end_ps=self._task_end,
            packets=self._packets,
            packet_hops=self._hops,
            flows=[_record(sending) for sending in sorted(self._all, key=lambda sending: sending.flow.id)],
            links=[LinkRecord(*row) for row in zip(self._bytes, self._busy, self._peak, strict=True)],
            last_sent={link: self._rest(nic.last) for link, nic in self._nics.items() if nic.last},
        )

    def _begin(self, ready: list[int]) -> None:
        """Starts tasks that wait for nothing but their delay."""
        at_once = list(ready)
        while at_once:
            index = at_once.pop()
            delay_ps = self._scene.tasks[index].delay_ps
            if delay_ps:
                _Event(self._env, partial(self._move, index)).schedule(_FIRST, self._env.now + delay_ps)
            else:
                at_once += self._move_or_finish(index)

    def _move(self, index: int) -> None:
        self._begin(self._move_or_finish(index))

    def _move_or_finish(self, index: int) -> list[int]:
        """Releases a task's message; a task without one is done, and those that now wait for nothing are returned."""
        if not self._scene.tasks[index].bytes:
            self._task_end[index] = self._env.now
            return self._frontier.done(index)
        if not self._released:
            _Event(self._env, self._admit).schedule(_RELEASE, self._env.now)
        self._released.append(index)
        return []

    def _arrived(self, index: int) -> None:
        self._begin(self._frontier.done(index))

    def _admit(self) -> None:
        """Hands the messages released in this instant, host by host, to the transport and the hosts' rings."""
        scene, now = self._scene, self._env.now
        by_nic: dict[int, list[Release]] = defaultdict(list)
        for index in sorted(self._released):
            task = scene.tasks[index]
            src, dst = scene.hosts[task.src], scene.hosts[task.dst]
            paths = scene.topology.paths(src, dst)
            release = Release(index, task.src, task.dst, scene.topology.leaf(dst), task.bytes, paths)
            by_nic[paths[0][0]].append(release)
        self._released.clear()
        for link, released in by_nic.items():
            nic = self._nics.get(link) or self._nics.setdefault(link, _Nic(self._env, self._send, link))
            flows = sorted(self._transport.admit(released), key=self._turn)
            for flow in flows:
                sending = _Sending(flow, -(-flow.bytes // scene.packet.payload), now)
                self._flows_left[flow.message.task] += 1
                self._all.append(sending)
                nic.ring.append(sending)
            if nic.idle:
                self._send(nic)

    def _turn(self, flow: Flow) -> tuple[int, int]:
        """Place of a flow among those its host releases together."""
        if self._scene.nic.destinations == "random":
            return self._order(flow.id), flow.id
        hosts = self._scene.hosts
        return (hosts[flow.message.dst] - hosts[flow.message.src]) % self._scene.topology.hosts, flow.id

    def _send(self, nic: _Nic) -> None:
        """Takes the next packet from a ring and comes back when its link is free."""
        nic.idle = not nic.ring
        if nic.idle:
            return
        sending = nic.ring[0]
        flow, sequence = sending.flow, sending.next
        sending.next += 1
        packet_config = self._scene.packet
        last = sending.next == sending.packets
        payload = flow.bytes - sequence * packet_config.payload if last else packet_config.payload
        path = sending.path or flow.message.paths[self._transport.choose_path(flow, sequence)]
        nic.last = packet = _Packet(sending, sequence, path, payload + packet_config.header)
        if last:
            nic.ring.popleft()
        elif self._scene.nic.scheduling == "round_robin":
            nic.ring.rotate(-1)
        self._packets += 1
        self._arrive(packet)
        nic.free_again.schedule(_SEND, self._free[nic.link])

    def _arrive(self, packet: simpy.Event) -> None:
        """A packet joins the queue of its next link; when it will leave is known at once."""
        assert isinstance(packet, _Packet)
        env = self._env
        now = env.now
        hop = packet.hop
        link = packet.path[hop]
        service = -(-packet.work // self._rate[link])
        free = self._free[link]
        leaves = (free if free > now else now) + service
        self._free[link] = leaves
        self._busy[link] += service
        self._bytes[link] += packet.wire_bytes
        if leaves - now > self._peak[link]:
            self._peak[link] = leaves - now
        self._hops += 1
        packet.hop = hop = hop + 1
        arrives = leaves + self._delay[link]
        if hop < len(packet.path):
            packet.callbacks = self._on_arrival
            env.schedule(packet, packet.key, arrives - now)
        else:
            self._deliver(packet, arrives)

    def _deliver(self, packet: _Packet, arrives: int) -> None:
        """Notes a packet that has passed its last link; `arrives` may lie ahead."""
        sending = packet.sending
        if packet.sequence < sending.highest:
            sending.reordered += 1
        else:
            sending.highest = packet.sequence
        sending.left -= 1
        sending.end_ps = max(sending.end_ps, arrives)
        if not sending.left:
            task = sending.flow.message.task
            self._flows_left[task] -= 1
            self._task_end[task] = max(self._task_end[task], sending.end_ps)
            if not self._flows_left[task]:
                _Event(self._env, partial(self._arrived, task)).schedule(_FIRST, self._task_end[task])

    def _rest(self, packet: _Packet) -> int:
        rest = (service_ps(packet.wire_bytes, self._rate[link]) + self._delay[link] for link in packet.path[1:])
        return self._delay[packet.path[0]] + sum(rest)


def _record(sending: _Sending) -> FlowRecord:
    flow, message = sending.flow, sending.flow.message
    ends = (sending.packets, sending.start_ps, sending.end_ps, sending.reordered)
    return FlowRecord(flow.id, message.task, message.src, message.dst, flow.bytes, *ends)
