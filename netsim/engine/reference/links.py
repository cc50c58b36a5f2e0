"""Links: when packets leave them, which are lost or marked, and what each link has carried."""

from collections.abc import Callable, Mapping
from functools import cache, partial

import numpy as np
import simpy

from netsim.engine.protocol import LINK, QueueSeries, Scene
from netsim.engine.queue_series import QueueRecorder
from netsim.engine.reference.calendar import Calendar, Event, end
from netsim.engine.reference.conditions import FULL, LOST, Conditions, Work
from netsim.engine.reference.connection import Packet, Routes
from netsim.engine.reference.nic import Nic
from netsim.engine.reference.queued import QueuedLinks
from netsim.engine.reference.trace import Trace
from netsim.engine.reference.watching import LinkRecorder
from netsim.foundation.units import service_ps
from netsim.topology.protocol import Path


class Links:
    """All links of a fabric; `ends` gets a packet whose last bit leaves its last link, and when it arrives."""

    def __init__(
        self,
        scene: Scene,
        calendar: Calendar,
        routes: Routes,
        conditions: Conditions,
        nics: Mapping[int, Nic],
        ends: Callable[[Packet, int], None],
        trace: Trace | None,
    ) -> None:
        links = scene.topology.links
        self._scene, self._calendar, self._routes, self._conditions, self._ends = (
            scene,
            calendar,
            routes,
            conditions,
            ends,
        )
        self._rate, self._delay = scene.rates.initial, [link.delay_ps for link in links]
        self._at_switch = [not link.src.startswith("host") for link in links]
        self._lane_free, self._bytes, self._busy, self._peak = ([0] * len(links) for _ in range(4))
        self._queues, self._work = QueueRecorder(), Work(scene.rates)
        self._carried = LinkRecorder(len(links) if scene.watch is not None and scene.watch.links else 0)
        self._on_arrival = [self.arrive]
        self.free_ps = [0] * len(links)
        self.hops = self.control_hops = self.dropped = self.trimmed = self.marked = 0
        self._trace = trace
        queues = scene, calendar, nics, conditions, self._work, self, trace
        self.queued = QueuedLinks(*queues) if scene.queues else None

    def arrive(self, packet: simpy.Event) -> None:
        """Adds a packet to the queue of its next link; its departure, or its loss, is known at once."""
        assert isinstance(packet, Packet)
        now = self._calendar.now
        hop = packet.hop
        if hop == len(packet.path):
            self._routes.go_on(packet, now, partial(self._backlog_ps, packet.connection.traffic_class, now))
        link = packet.path[hop]
        if packet.passes:
            self._pass(packet, link, now)
            return
        if self._trace is not None:
            self._trace.add(now, "queued", link, packet)
        if self.queued:
            self.queued.join(packet, link, now)
            return
        free = self.free_ps[link]
        start = free if free > now else now
        if self._conditions.indifferent:
            service = -(-packet.work // self._rate[link])
        else:
            service = self._conditions.service_ps(link, packet.wire_bytes, now, start, self._at_switch[link])
            if service < 0:
                self._lose(packet, link, service, now, start)
                return
            if not self._conditions.marks_leaving:
                self.mark(packet, link, start - now, start)
        repeats = self._conditions.repeats(link, packet.connection.key, packet.serial, packet.control)
        if repeats > 0:
            service += self._conditions.repeating_ps(link, service, repeats)
        self.free_ps[link] = leaves = start + service
        work = leaves - now
        if self._work.varies(link):
            self._work.begin(link, start)
            work = self._work.nominal_ps(link, now, leaves)
        self.count(packet, link, service, leaves - now, work, now)
        if repeats == LOST:
            self.drop(packet, link)
            return
        if self._conditions.marks_leaving and not packet.control and self._at_switch[link]:
            Event(self._calendar, partial(self._mark_leaving, packet, link)).schedule(end(link), leaves)
        self.forward(packet, link, leaves)

    def _mark_leaving(self, packet: Packet, link: int) -> None:
        """Marks a packet whose last bit leaves a link now, by the backlog that it leaves behind."""
        now = self._calendar.now
        self.mark(packet, link, self.free_ps[link] - now, now)

    def mark(self, packet: Packet, link: int, backlog_ps: int, start_ps: int) -> None:
        """Marks a data packet if the queue that it finds, or leaves behind, at a switch is long."""
        if packet.control or packet.marked or not self._at_switch[link]:
            return
        if self._conditions.marks(link, packet.connection.key, packet.serial, backlog_ps, start_ps):
            packet.marked = True
            self.marked += 1
            if self._trace is not None:
                self._trace.add(self._calendar.now, "marked", link, packet)

    def count(self, packet: Packet, link: int, service_ps: int, queue_ps: int, work_ps: int, now_ps: int) -> None:
        """Records the bytes that a link carries, and the queue in front of a packet that joined it at `now_ps`.

        The link takes `service_ps` for the packet, `queue_ps` for the queue, `work_ps` for that at the nominal rate.
        """
        self._busy[link] += service_ps
        self._bytes[link] += packet.wire_bytes
        if work_ps > self._peak[link]:
            self._peak[link] = work_ps
        if packet.control:
            self.control_hops += 1
        else:
            self.hops += 1
        if self._at_switch[link]:
            self._queues.add(now_ps, queue_ps)

    def forward(self, packet: Packet, link: int, leaves_ps: int) -> None:
        """Forwards a packet whose last bit leaves a link at `leaves_ps`, which may be in the future."""
        if self._trace is not None and not packet.passes:
            self._trace.add(leaves_ps, "departed", link, packet)
        arrives = leaves_ps + self._delay[link]
        packet.hop += 1
        if not packet.control:
            self._carried.add(link, leaves_ps, packet.wire_bytes)
        if packet.hop < packet.links:
            packet.callbacks = self._on_arrival
            self._calendar.schedule(packet, packet.key, arrives - self._calendar.now)
        else:
            self._ends(packet, arrives)

    def refuse(self, packet: Packet, link: int, now_ps: int) -> None:
        """Drops or trims a packet for which a switch has no room."""
        self._lose(packet, link, FULL, now_ps, now_ps)

    def drop(self, packet: Packet, link: int) -> None:
        """Counts a dropped packet."""
        self.dropped += 1
        if self._trace is not None:
            self._trace.add(self._calendar.now, "dropped", link, packet)

    def free_at(self, link: int, time_ps: int) -> None:
        """Makes a link with queues busy until `time_ps`."""
        self.free_ps[link] = time_ps

    def look(self, nic: Nic) -> None:
        """Schedules a host's ring to look for a packet as soon as its link is free."""
        nic.look_at(max(self._calendar.now, self.free_ps[nic.link]))

    def figures(self) -> np.ndarray:
        """Array of `LINK`."""
        paused = self.queued.paused_ps if self.queued else [0] * len(self.free_ps)
        return np.array(list(zip(self._bytes, self._busy, self._peak, paused, strict=True)), dtype=LINK)

    def queues(self) -> QueueSeries:
        """Queues over time."""
        return self._queues.series()

    def carried(self) -> tuple[int, np.ndarray]:
        """Bytes of each link over time, if they are watched."""
        return self._carried.series()

    def rest_ps(self, packet: Packet, size: int) -> int:
        """Time in ps of a packet of `size` bytes from its host's link to the receiver, without queues."""
        paths = packet.connection.flow.message.paths
        if packet.choice is not None:
            return self._alone_ps(paths[packet.choice], size)
        return min(self._alone_ps(paths[index], size) for index in packet.usable)

    @cache  # noqa: B019
    def _alone_ps(self, path: Path, wire_bytes: int) -> int:
        rest = (service_ps(wire_bytes, self._rate[link]) + self._delay[link] for link in path[1:])
        return self._delay[path[0]] + sum(rest)

    def _backlog_ps(self, traffic_class: int, now: int, link: int) -> int:
        if self.queued:
            return self.queued.backlog_ps(link, traffic_class, now)
        return max(0, self.free_ps[link] - now)

    def _pass(self, packet: Packet, link: int, now: int) -> None:
        """Sends a packet of the control lane over a link."""
        rate = self._scene.rates.at(link, now)
        service = service_ps(packet.wire_bytes, rate) if rate else 0
        if self._scene.rates.next_down(link, now) < now + service or not rate:
            self.drop(packet, link)
            return
        leaves = now + service
        if self._scene.acknowledgement.lane == "priority" and not self.queued:
            leaves = self._lane_free[link] = max(self._lane_free[link], now) + service
            self.free_ps[link] = max(self.free_ps[link], now) + service
            self._busy[link] += service
        self._bytes[link] += packet.wire_bytes
        self.control_hops += 1
        self.forward(packet, link, leaves)

    def _lose(self, packet: Packet, link: int, why: int, now: int, start: int) -> None:
        """Drops a packet, or trims it to its header if its queue is full."""
        trim = self._scene.flow_control
        if why == FULL and trim.kind == "trim" and not packet.control:
            self.trimmed += 1
            if self._trace is not None:
                self._trace.add(now, "trimmed", link, packet)
            packet.trimmed = packet.passes = True
            packet.trimmed_last = packet.hop == packet.links - 1
            packet.wire_bytes = trim.header
            self._pass(packet, link, now)
            return
        if why == LOST and not self._at_switch[link]:
            self.free_ps[link] = start + service_ps(packet.wire_bytes, self._rate[link])
        self.drop(packet, link)
