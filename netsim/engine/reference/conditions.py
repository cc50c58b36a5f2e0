"""Conditions of links: rates over time, losses, marks, and the memory that queues of a switch share."""

from bisect import bisect_right
from collections.abc import Callable
from math import ceil, inf

from netsim.congestion.protocol import Marking
from netsim.draws import Draws, Purpose
from netsim.engine.buffers import limits_of
from netsim.engine.protocol import Scene
from netsim.foundation.units import service_ps
from netsim.topology.failure import Rates
from netsim.topology.keys import MILLION
from netsim.transport.protocol import Transport


class Work:
    """The part of a link's work that is served at each rate: a packet keeps the rate at which its service begins."""

    def __init__(self, rates: Rates) -> None:
        self._nominal = rates.initial
        self._steps = {
            link: steps for link, steps in rates.changes.items() if len(steps) > 1 or steps[0][1] != rates.initial[link]
        }
        self._since_ps = {link: [-1] * len(steps) for link, steps in self._steps.items()}

    def varies(self, link: int) -> bool:
        """Whether the link ever has another rate than its nominal one."""
        return link in self._steps

    def begin(self, link: int, time_ps: int) -> None:
        """Notes that a link whose rate varies begins to serve a packet."""
        row = bisect_right(self._steps[link], (time_ps, inf)) - 1
        if self._since_ps[link][row] < 0:
            self._since_ps[link][row] = time_ps

    def nominal_ps(self, link: int, begin_ps: int, end_ps: int) -> int:
        """How long a link whose rate varies would take at its nominal rate for what it serves from `begin_ps` to
        `end_ps`.

        All services that have been noted begin before `end_ps`.
        """
        work_ps = 0.0
        for (_, rate), since_ps in zip(self._steps[link][::-1], self._since_ps[link][::-1], strict=True):
            if 0 <= since_ps < end_ps:
                first_ps = max(since_ps, begin_ps)
                work_ps += (end_ps - first_ps) * (rate / self._nominal[link])
                end_ps = first_ps
                if end_ps == begin_ps:
                    break
        return ceil(work_ps)


class Buffers:
    """The memory of all switches. Queue link * classes + class holds the packets of a class in front of a link.

    A packet counts from its arrival at the switch until its last bit has left. With pauses a switch also counts them by
    the queue from which they came, and pauses or resumes that queue by `send_pause_frame`.
    """

    def __init__(self, scene: Scene, send_pause_frame: Callable[[int], None]) -> None:
        self._classes, self._send_pause_frame = scene.classes, send_pause_frame
        limits = limits_of(scene)
        self._switch, self._pool, self._headroom = limits.source, limits.pool, limits.headroom
        self._pauses, self._shared = scene.flow_control.kind == "pfc", scene.buffer is not None
        control = scene.flow_control
        if control.kind == "pfc":
            self._dynamic, self._resume_at, self._gap = control.dynamic, control.resume_at, control.resume_below
            self._pause_above = 0 if control.pause_above == "dynamic" else control.pause_above
        if scene.buffer is not None:
            self._size, self._alpha = scene.buffer.size, scene.buffer.millionths
        queues = len(scene.topology.links) * scene.classes
        self.used = [0] * (max(limits.source) + 1)
        self.lengths = [0] * queues
        self.held = [0] * queues
        self.pause_sent = [False] * queues

    def takes(self, size_bytes: int, source: int, queue: int) -> bool:
        """Takes a packet into a switch if there is room, and returns whether; may pause the queue that it came from."""
        switch = self._switch[queue // self._classes]
        if not self._has_room(size_bytes, source, queue, switch):
            return False
        self.used[switch] += size_bytes
        self.lengths[queue] += size_bytes
        self.held[source] += size_bytes
        if self._pauses and not self.pause_sent[source] and self._fills(source, switch):
            self.pause_sent[source] = True
            self._send_pause_frame(source)
        return True

    def gives_back(self, size_bytes: int, source: int, queue: int) -> None:
        """Frees the memory of a packet that has left or is lost; may resume the queue that it came from."""
        switch = self._switch[queue // self._classes]
        self.used[switch] -= size_bytes
        self.lengths[queue] -= size_bytes
        self.held[source] -= size_bytes
        if self.pause_sent[source] and self._may_resume(source, switch):
            self.pause_sent[source] = False
            self._send_pause_frame(source)

    def _has_room(self, size_bytes: int, source: int, queue: int, switch: int) -> bool:
        if self._shared and self.used[switch] + size_bytes > self._size:
            return False
        if not self._pauses:
            free = self._size - self.used[switch] if self._shared else 0
            return not self._shared or self.lengths[queue] * MILLION < self._alpha * free
        if self._dynamic:
            return True
        return self.held[source] + size_bytes <= self._pause_above + self._headroom[source // self._classes]

    def _threshold(self, switch: int) -> int:
        """Millionths of a byte that a switch may hold from one queue before it pauses that queue."""
        if self._dynamic:
            return self._alpha * max(0, self._pool[switch] - self.used[switch])
        return self._pause_above * MILLION

    def _fills(self, source: int, switch: int) -> bool:
        return self.held[source] * MILLION > self._threshold(switch)

    def _may_resume(self, source: int, switch: int) -> bool:
        if self._dynamic:
            return self.held[source] * MILLION <= max(0, self._threshold(switch) - self._gap * MILLION)
        return self.held[source] <= self._resume_at


LOST, FULL = -1, -2
"""Values in place of a service time: LOST, the link is or goes down; FULL, the queue has no room."""


MOST_REPEATS = 64
"""Most repeats of a packet by a link; after them it counts as sent."""


def marking(scene: Scene, transport: Transport) -> Marking | None:
    """The marking of the congestion control, or else that of the transport."""
    if (own := scene.congestion.marking(scene.queue_bytes)) is not None:
        return own
    above = transport.mark_above
    return None if above is None else Marking(above, above, 1.0)


class Conditions:
    """Service times, losses and marks. A service time follows the rate of the link when service begins.

    Room and thresholds are in bytes of unfinished work at that rate. A packet is lost if the link is down when it comes
    or goes down before its last bit has left. Queues of hosts' own links have no limit and do not mark.
    """

    def __init__(self, scene: Scene, transport: Transport, seed: int) -> None:
        self._rates = scene.rates
        self._room_bytes = scene.queue_bytes if scene.flow_control.kind != "pfc" else None
        self._marking = marking(scene, transport)
        self._draws = Draws(seed, Purpose.MARK)
        self._errors, self._error_draws = scene.link_errors, Draws(seed, Purpose.LINK_ERROR)
        links, reverse = scene.topology.links, scene.topology.reverse
        self._round_trip_ps = [link.delay_ps + links[reverse(index)].delay_ps for index, link in enumerate(links)]
        self._inside = [reverse(index) == index for index in range(len(links))]
        self.marks_leaving = self._marking is not None and self._marking.leaving
        self.indifferent = not scene.rates.changes and self._room_bytes is None and self._marking is None

    def service_ps(self, link: int, wire_bytes: int, now_ps: int, start_ps: int, at_switch: bool) -> int:
        """Service time in ps of a packet that would begin service at `start_ps`, or LOST or FULL."""
        rate = self._rates.at(link, start_ps)
        down = self._rates.next_down(link, now_ps)
        if not rate or down <= start_ps:
            return LOST
        service = service_ps(wire_bytes, rate)
        if down < start_ps + service:
            return LOST
        if at_switch and not self.has_room(start_ps - now_ps + service, rate):
            return FULL
        return service

    def has_room(self, queue_ps: int, rate_bps: int) -> bool:
        """Whether the queue limit allows a queue of `queue_ps` of service time at a rate."""
        return self._room_bytes is None or queue_ps <= service_ps(self._room_bytes, rate_bps)

    def repeats(self, link: int, flow: int, serial: int, control: bool) -> int:
        """How often a link has to send a packet again, or LOST if it is corrupted and the link does not repeat."""
        if self._errors is None or self._inside[link]:
            return 0
        attempt = 0
        while attempt < MOST_REPEATS:
            key = (attempt << 1 | control) << 48 | serial << 20 | link
            if (self._error_draws(flow, key) >> 11) * 2.0**-53 >= self._errors.rate:
                break
            if self._errors.retry == "none":
                return LOST
            attempt += 1
        return attempt

    def repeating_ps(self, link: int, service_ps: int, repeats: int) -> int:
        """How long a link needs to send a packet again so often, each time after its round trip."""
        return repeats * (service_ps + self._round_trip_ps[link])

    def rate_bps(self, link: int, now_ps: int) -> int:
        """Rate at this moment, 0 if the link is down."""
        return self._rates.at(link, now_ps)

    def is_lost(self, link: int, start_ps: int, end_ps: int) -> bool:
        """Whether the link is down at some moment of a transmission."""
        return self._rates.next_down(link, start_ps) < end_ps

    def marks(self, link: int, flow: int, serial: int, backlog_ps: int, start_ps: int) -> bool:
        """Whether a packet is marked (ECN) at a backlog of `backlog_ps`."""
        if self._marking is None:
            return False
        above, all_above, at_most, _ = self._marking
        rate = self._rates.at(link, start_ps)
        if not rate:
            return False
        low, high = service_ps(above, rate), service_ps(all_above, rate)
        if backlog_ps <= low:
            return False
        if backlog_ps > high:
            return True
        chance = at_most * ((backlog_ps - low) / (high - low))
        return (self._draws(flow, serial << 20 | link) >> 11) * 2.0**-53 < chance
