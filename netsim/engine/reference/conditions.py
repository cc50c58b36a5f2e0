"""Conditions at a link that affect a packet: loss, a full queue, a mark, a changed rate."""

from typing import NamedTuple

from netsim.congestion.dcqcn import DcqcnConfig
from netsim.congestion.dctcp import DctcpConfig
from netsim.congestion.nscc import NsccConfig
from netsim.draws import Draws, Purpose
from netsim.engine.protocol import Scene
from netsim.transport.protocol import Transport
from netsim.units import service_ps

LOST, FULL = -1, -2
"""Values in place of a service time: LOST, the link is or goes down; FULL, the queue has no room."""


MOST_REPEATS = 64
"""How often a link repeats a packet; then it counts as sent."""


class Marking(NamedTuple):
    """When a queue marks: never up to `above` bytes, always beyond `all_above`, in between with growing probability."""

    above: int  # bytes
    all_above: int  # bytes
    at_most: float  # the largest probability up to `all_above`
    leaving: bool = False  # whether the queue counts that a packet leaves behind, and not the one that it finds


def marking(scene: Scene, transport: Transport) -> Marking | None:
    """The marking of the congestion control, or else that of the transport."""
    match scene.congestion:
        case DctcpConfig(mark_above=above):
            return Marking(above, above, 1.0)
        case DcqcnConfig() as config:
            return Marking(config.mark_from, config.mark_all, config.mark_at_most)
        case NsccConfig() as config:
            return Marking(*config.thresholds(scene.queue_bytes), 1.0, config.marks == "departure")
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
        """Service time of a packet that would begin service at `start_ps`, or LOST or FULL."""
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
        """Whether a queue may become so long, as service time at a rate."""
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
        """Whether a packet that finds so much unfinished work is marked."""
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
