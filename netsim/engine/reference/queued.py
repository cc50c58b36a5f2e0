"""Links whose packets wait in queues, since a pause or a packet of another class may delay a departure."""

from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Protocol

from netsim.engine.buffers import limits_of
from netsim.engine.protocol import Scene
from netsim.engine.reference.calendar import Calendar, Event, end, pause_frame
from netsim.engine.reference.conditions import LOST, Buffers, Conditions, Work
from netsim.engine.reference.connection import Packet
from netsim.engine.reference.nic import Nic, Turns
from netsim.engine.reference.trace import Trace, Traced
from netsim.foundation.units import service_ps


class Engine(Protocol):
    """Calls from the links to the engine."""

    def mark(self, packet: Packet, link: int, backlog_ps: int, start_ps: int) -> None: ...
    def count(self, packet: Packet, link: int, service_ps: int, queue_ps: int, work_ps: int, now_ps: int) -> None: ...
    def forward(self, packet: Packet, link: int, leaves_ps: int) -> None: ...
    def free_at(self, link: int, time_ps: int) -> None: ...
    def look(self, nic: Nic) -> None: ...
    def drop(self, packet: Packet, link: int) -> None: ...
    def refuse(self, packet: Packet, link: int, now_ps: int) -> None: ...


class _Queue:
    """The queue of a class in front of a link."""

    def __init__(self) -> None:
        self.waiting: deque[Packet] = deque()
        self.waiting_work = self.waiting_bytes = 0
        self.stopped_ps = -1


class QueuedLinks:
    """All links of a fabric. Each class has a queue of its own. The first class goes first, packet by packet;
    those with weights take turns behind the others.

    `nics`, hosts' rings by queue, stop and go on with their queues; `work` is only of links whose rate varies.
    """

    def __init__(
        self,
        scene: Scene,
        calendar: Calendar,
        nics: Mapping[int, Nic],
        conditions: Conditions,
        work: Work,
        engine: Engine,
        trace: Trace | None,
    ) -> None:
        links = scene.topology.links
        self._classes, self._calendar, self._nics = scene.classes, calendar, nics
        self._conditions, self._work, self._engine, self._trace = conditions, work, engine, trace
        self._rate, self._pause_delay_ps = scene.rates.initial, limits_of(scene).pause_delay_ps
        self._from_switch = [not link.src.startswith("host") for link in links]
        self._buffers = Buffers(scene, self._send_pause_frame)
        self._queues = [_Queue() for _ in range(len(links) * scene.classes)]
        self._takes_turns = [quantum > 0 for quantum in scene.quanta] or [False] * scene.classes
        self._turns = [Turns(scene.quanta) for _ in links] if scene.quanta else []
        self._served: list[Packet | None] = [None] * len(links)
        self._ends_ps = [0] * len(links)
        self.paused_ps = [0] * len(links)

    def join(self, packet: Packet, link: int, now_ps: int) -> None:
        """Adds a packet to the queue of its class in front of a link."""
        rate = self._conditions.rate_bps(link, now_ps)
        if not rate:
            self._lose(packet, link, now_ps)
            return
        queue, traffic_class = self._queue(packet, link), packet.connection.traffic_class
        packet.work = service_ps(packet.wire_bytes, rate)
        packet.came_ps, packet.found_ps = now_ps, self._own_backlog_ps(link, traffic_class, now_ps)
        if self._from_switch[link] and not self._holds(packet, link, rate):
            self._engine.refuse(packet, link, now_ps)
            return
        if not self._conditions.marks_leaving:
            self._engine.mark(packet, link, packet.found_ps, now_ps)
        if self._work.varies(link):
            packet.joined_ps = self._joined_ps(packet, link, now_ps)
        queue.waiting.append(packet)
        queue.waiting_work += packet.work
        queue.waiting_bytes += packet.wire_bytes
        self._start(link, now_ps)

    def backlog_ps(self, link: int, traffic_class: int, now_ps: int) -> int:
        """Unfinished work in front of a link that goes before a new packet of a class."""
        first = link * self._classes
        last = first + (self._classes if self._takes_turns[traffic_class] else traffic_class + 1)
        waiting = sum(queue.waiting_work for queue in self._queues[first:last])
        return waiting + (max(0, self._ends_ps[link] - now_ps) if self._served[link] else 0)

    def is_stopped(self, queue: int) -> bool:
        """Whether a queue is paused; a ring that begins at its link meanwhile is paused too."""
        return self._queues[queue].stopped_ps >= 0

    def _own_backlog_ps(self, link: int, traffic_class: int, now_ps: int) -> int:
        """Unfinished work of a class in front of a link."""
        waiting = self._queues[link * self._classes + traffic_class].waiting_work
        return waiting + (max(0, self._ends_ps[link] - now_ps) if self._serves(link, traffic_class) else 0)

    def _joined_ps(self, packet: Packet, link: int, now_ps: int) -> int:
        """The queue that a packet joins, as service time at the nominal rate, for a link whose rate varies."""
        traffic_class = packet.connection.traffic_class
        waiting = self._queues[link * self._classes + traffic_class].waiting_bytes
        work_ps = service_ps(waiting + packet.wire_bytes, self._rate[link])
        if self._serves(link, traffic_class):
            work_ps += self._work.nominal_ps(link, now_ps, self._ends_ps[link])
        return work_ps

    def _serves(self, link: int, traffic_class: int) -> bool:
        served = self._served[link]
        return served is not None and served.connection.traffic_class == traffic_class

    def _queue(self, packet: Packet, link: int) -> _Queue:
        return self._queues[link * self._classes + packet.connection.traffic_class]

    def _holds(self, packet: Packet, link: int, rate_bps: int) -> bool:
        """Takes a packet into a switch if there is room; returns whether."""
        if not self._conditions.has_room(packet.found_ps + packet.work, rate_bps):
            return False
        return self._buffers.takes(packet.wire_bytes, *self._places(packet, link))

    def _places(self, packet: Packet, link: int) -> tuple[int, int]:
        """The ingress queue that a packet came from, and its egress queue in front of a link."""
        source = packet.path[packet.hop - 1]
        traffic_class = packet.connection.traffic_class
        return source * self._classes + traffic_class, link * self._classes + traffic_class

    def _start(self, link: int, now_ps: int) -> None:
        """Begins the next transmission; packets on a link that is down are lost in turn."""
        while self._served[link] is None and (queue := self._next(link)):
            packet = queue.waiting.popleft()
            queue.waiting_work -= packet.work
            queue.waiting_bytes -= packet.wire_bytes
            if self._turns:
                self._turns[link].sent(packet.connection.traffic_class, packet.wire_bytes, bool(queue.waiting))
            rate = self._conditions.rate_bps(link, now_ps)
            ends_ps = now_ps + service_ps(packet.wire_bytes, rate) if rate else now_ps
            if not rate or self._conditions.is_lost(link, packet.came_ps, ends_ps):
                self._release(packet, link)
                self._lose(packet, link, now_ps)
                continue
            service = ends_ps - now_ps
            repeats = self._conditions.repeats(link, packet.connection.key, packet.serial, packet.control)
            if repeats > 0:
                service += self._conditions.repeating_ps(link, service, repeats)
                ends_ps = now_ps + service
            self._served[link], self._ends_ps[link] = packet, ends_ps
            queue_ps = work_ps = packet.found_ps + service
            if self._work.varies(link):
                self._work.begin(link, now_ps)
                work_ps = packet.joined_ps
            self._engine.count(packet, link, service, queue_ps, work_ps, packet.came_ps)
            self._engine.free_at(link, ends_ps)
            if repeats == LOST:
                self._engine.drop(packet, link)
            ended = Event(self._calendar, partial(self._end, packet, link, repeats != LOST))
            ended.schedule(end(link), ends_ps)

    def _next(self, link: int) -> _Queue | None:
        """The queue that sends next: the first that is neither empty nor paused, or the choice by turns."""
        queues = self._queues[link * self._classes : (link + 1) * self._classes]
        needs = [queue.waiting[0].wire_bytes if queue.waiting and queue.stopped_ps < 0 else None for queue in queues]
        if self._turns:
            chosen = self._turns[link].next(needs)
            return None if chosen is None else queues[chosen]
        return next((queue for queue, need in zip(queues, needs, strict=True) if need is not None), None)

    def _lose(self, packet: Packet, link: int, now_ps: int) -> None:
        """Drops a packet; a host's link is busy for its service time nevertheless."""
        if not self._from_switch[link]:
            self._engine.free_at(link, now_ps + service_ps(packet.wire_bytes, self._rate[link]))
        self._engine.drop(packet, link)

    def _end(self, packet: Packet, link: int, arrives: bool) -> None:
        """Ends a transmission; a packet that is corrupted does not arrive."""
        now = self._calendar.now
        self._served[link] = None
        self._release(packet, link)
        if self._conditions.marks_leaving and arrives:
            self._engine.mark(packet, link, self._queue(packet, link).waiting_work, now)
        self._start(link, now)
        if arrives:
            self._engine.forward(packet, link, now)

    def _release(self, packet: Packet, link: int) -> None:
        """Removes a packet from the memory of its switch."""
        if self._from_switch[link]:
            self._buffers.gives_back(packet.wire_bytes, *self._places(packet, link))

    def _send_pause_frame(self, queue: int) -> None:
        """Sends the frame that pauses a queue, or resumes it; frames about one queue arrive in their order."""
        sent = Event(self._calendar, partial(self._stop_or_resume, queue))
        sent.schedule(pause_frame(queue), self._calendar.now + self._pause_delay_ps[queue // self._classes])

    def _stop_or_resume(self, index: int) -> None:
        """A pause frame arrives: the first one stops a queue, the second one resumes it, and so on."""
        queue, nic, now = self._queues[index], self._nics.get(index), self._calendar.now
        if self._trace is not None:
            self._trace.append(Traced(now, "paused" if queue.stopped_ps < 0 else "resumed", index, -1, -1, False, 0))
        if queue.stopped_ps < 0:
            queue.stopped_ps = now
            if nic:
                nic.stopped = True
            return
        link = index // self._classes
        self.paused_ps[link] += now - queue.stopped_ps
        queue.stopped_ps = -1
        self._start(link, now)
        if nic:
            nic.stopped = False
            self._engine.look(nic)
