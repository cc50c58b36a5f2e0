"""Links under priority flow control. A pause may delay departures, so every transmission ends with an event."""

from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Protocol

from netsim.congestion.flow_control import PfcConfig
from netsim.engine.protocol import Scene
from netsim.engine.reference.calendar import FIRST, WORD, Calendar, Event
from netsim.engine.reference.conditions import Conditions
from netsim.engine.reference.connection import Packet
from netsim.engine.reference.nic import Nic
from netsim.units import PICOSECONDS_PER_SECOND, service_ps


class Engine(Protocol):
    """Calls from the links to the engine."""

    def mark(self, packet: Packet, link: int, backlog_ps: int, start_ps: int) -> None: ...
    def count(self, packet: Packet, link: int, service_ps: int, queue_ps: int, now_ps: int) -> None: ...
    def forward(self, packet: Packet, link: int, leaves_ps: int) -> None: ...
    def free_at(self, link: int, time_ps: int) -> None: ...
    def look(self, nic: Nic) -> None: ...
    def drop(self) -> None: ...


class _Queue:
    """Packets in front of a link."""

    def __init__(self) -> None:
        self.waiting: deque[Packet] = deque()
        self.waiting_work = 0
        self.ends_ps = 0
        self.busy = False
        self.stopped_ps = -1


class PausingLinks:
    """All links of a fabric whose switches pause the links that fill them.

    Args:
        scene: The fabric.
        config: Thresholds.
        calendar: Simulated time.
        nics: Hosts' rings by link; they stop and go on with their links.
        conditions: Rates over time.
        engine: Gets a call for everything that happens to packets.
    """

    def __init__(
        self,
        scene: Scene,
        config: PfcConfig,
        calendar: Calendar,
        nics: Mapping[int, Nic],
        conditions: Conditions,
        engine: Engine,
    ) -> None:
        links = scene.topology.links
        self._config, self._calendar, self._nics = config, calendar, nics
        self._conditions, self._engine = conditions, engine
        self._rate, self._delay = scene.rates.initial, [link.delay_ps for link in links]
        self._news_ps = [links[scene.topology.reverse(index)].delay_ps for index in range(len(links))]
        self._from_switch = [not link.src.startswith("host") for link in links]
        largest = max(scene.packet.payload + scene.packet.header, scene.acknowledgement.size)
        self._limit = [
            self._limit_of(link.rate_bps, link.delay_ps + back_ps, largest)
            for link, back_ps in zip(links, self._news_ps, strict=True)
        ]
        self._queues = [_Queue() for _ in links]
        self._held = [0] * len(links)
        self._told_to_stop = [False] * len(links)
        self.paused_ps = [0] * len(links)

    def join(self, packet: Packet, link: int, now_ps: int) -> None:
        """Adds a packet to the queue of a link."""
        rate = self._conditions.rate_bps(link, now_ps)
        if not rate:
            self._lose(packet, link, now_ps)
            return
        if self._from_switch[link] and not self._hold(packet, now_ps):
            self._engine.drop()
            return
        queue = self._queues[link]
        packet.came_ps, packet.found_ps = now_ps, self.backlog_ps(link, now_ps)
        self._engine.mark(packet, link, packet.found_ps, now_ps)
        packet.work = service_ps(packet.wire_bytes, rate)
        queue.waiting.append(packet)
        queue.waiting_work += packet.work
        self._start(link, now_ps)

    def _hold(self, packet: Packet, now_ps: int) -> bool:
        """Takes a packet into a switch if the room for its incoming link suffices, and may pause that link."""
        packet.source = source = packet.path[packet.hop - 1]
        if self._held[source] + packet.wire_bytes > self._limit[source]:
            return False
        self._held[source] += packet.wire_bytes
        if self._held[source] > self._config.pause_above and not self._told_to_stop[source]:
            self._told_to_stop[source] = True
            Event(self._calendar, partial(self._stop, source)).schedule(WORD, now_ps + self._news_ps[source])
        return True

    def backlog_ps(self, link: int, now_ps: int) -> int:
        """Unfinished work in front of a link."""
        queue = self._queues[link]
        return queue.waiting_work + (max(0, queue.ends_ps - now_ps) if queue.busy else 0)

    def _start(self, link: int, now_ps: int) -> None:
        """Begins the next transmission unless the link is paused; packets on a link that is down are lost in turn."""
        queue = self._queues[link]
        while queue.waiting and not queue.busy and queue.stopped_ps < 0:
            packet = queue.waiting.popleft()
            queue.waiting_work -= packet.work
            rate = self._conditions.rate_bps(link, now_ps)
            ends_ps = now_ps + service_ps(packet.wire_bytes, rate) if rate else now_ps
            if not rate or self._conditions.is_lost(link, packet.came_ps, ends_ps):
                self._release(packet, link, now_ps)
                self._lose(packet, link, now_ps)
                continue
            queue.busy, queue.ends_ps = True, ends_ps
            service = ends_ps - now_ps
            self._engine.count(packet, link, service, packet.found_ps + service, packet.came_ps)
            self._engine.free_at(link, ends_ps)
            Event(self._calendar, partial(self._end, packet, link)).schedule(FIRST, ends_ps)

    def _lose(self, packet: Packet, link: int, now_ps: int) -> None:
        """Loses a packet; a host's link is busy for its service time all the same."""
        if not self._from_switch[link]:
            self._engine.free_at(link, now_ps + service_ps(packet.wire_bytes, self._rate[link]))
        self._engine.drop()

    def _end(self, packet: Packet, link: int) -> None:
        """Ends a transmission."""
        now = self._calendar.now
        self._queues[link].busy = False
        self._release(packet, link, now)
        self._start(link, now)
        self._engine.forward(packet, link, now)

    def _release(self, packet: Packet, link: int, now_ps: int) -> None:
        """Removes a packet from the count of its switch, and may resume the incoming link."""
        if not self._from_switch[link]:
            return
        source = packet.source
        self._held[source] -= packet.wire_bytes
        if self._held[source] <= self._config.resume_at and self._told_to_stop[source]:
            self._told_to_stop[source] = False
            Event(self._calendar, partial(self._resume, source)).schedule(WORD, now_ps + self._news_ps[source])

    def _stop(self, link: int) -> None:
        self._queues[link].stopped_ps = self._calendar.now
        if link in self._nics:
            self._nics[link].stopped = True

    def _resume(self, link: int) -> None:
        queue, now = self._queues[link], self._calendar.now
        self.paused_ps[link] += now - queue.stopped_ps
        queue.stopped_ps = -1
        self._start(link, now)
        if link in self._nics:
            self._nics[link].stopped = False
            self._engine.look(self._nics[link])

    def _limit_of(self, rate_bps: int, delays_ps: int, largest_bytes: int) -> int:
        """Bytes that a switch may receive from a link after pausing it: those in flight, and a packet at either end."""
        if self._config.headroom != "auto":
            return self._config.pause_above + self._config.headroom
        on_its_way = -(-rate_bps * delays_ps // (8 * PICOSECONDS_PER_SECOND))
        return self._config.pause_above + on_its_way + 2 * largest_bytes
