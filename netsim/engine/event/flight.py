"""Packets in flight and hosts' links that look for a packet, on the calendar of the event engine."""

from netsim.engine.event.calendar import SEND, bring_forward, push, replace, take_first
from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Flight, Hosts, Record, Whole


@compiled
def schedule_look(flight: Flight, hosts: Hosts, link: int) -> None:
    """Puts a host's link on the calendar if it will look for a packet and is not there yet."""
    ring = hosts.rings[link]
    if ring.look_ps >= 0 and not ring.scheduled:
        ring.scheduled = 1
        push(flight.calendar, ring.look_ps, SEND | link, link)


@compiled
def schedule_next_look(flight: Flight, hosts: Hosts, link: int) -> None:
    """Moves a host's link, the calendar's first entry, to when it looks again, or takes it off the calendar."""
    ring = hosts.rings[link]
    if ring.look_ps >= 0:
        replace(flight.calendar, ring.look_ps, SEND | link, link)
    else:
        ring.scheduled = 0
        take_first(flight.calendar)


@compiled
def land(flight: Flight, lane: int) -> Whole:
    """Takes the first packet of a lane, which is the calendar's first entry, out of the air."""
    way = flight.lanes[lane]
    index = way.first
    packet = flight.packets[index]
    way.first = packet.next
    if way.first < 0:
        way.last = -1
        take_first(flight.calendar)
    else:
        following = flight.packets[way.first]
        following.previous = -1
        replace(flight.calendar, following.time_ps, following.key, lane)
    return index


@compiled
def send(flight: Flight, index: int, link: int, arrives: int) -> None:
    """Adds a packet that leaves a link to those in flight."""
    if flight.packets[index].passes:
        _send_across(flight, index, 2 * link + 1, arrives)
    else:
        _send_on(flight, index, 2 * link, arrives)


@compiled
def _send_on(flight: Flight, index: int, lane: int, arrives: int) -> None:
    """Adds a packet to those in flight, as the last to arrive."""
    packet, way = flight.packets[index], flight.lanes[lane]
    packet.time_ps = arrives
    packet.next = -1
    if way.first < 0:
        way.first = way.last = index
        push(flight.calendar, arrives, packet.key, lane)
    else:
        flight.packets[way.last].next = index
        way.last = index


@compiled
def _send_across(flight: Flight, index: int, lane: int, arrives: int) -> None:
    """Adds a packet of the control lane to those in flight; packets of this lane may overtake each other."""
    packets, way = flight.packets, flight.lanes[lane]
    packet = packets[index]
    packet.time_ps = arrives
    if way.first < 0:
        packet.next = packet.previous = -1
        way.first = way.last = index
        push(flight.calendar, arrives, packet.key, lane)
        return
    before = way.last
    while before >= 0 and not _comes_first(packets[before], arrives, packet.key):
        before = packets[before].previous
    after = packets[before].next if before >= 0 else way.first
    packet.previous, packet.next = before, after
    if after >= 0:
        packets[after].previous = index
    else:
        way.last = index
    if before >= 0:
        packets[before].next = index
    else:
        way.first = index
        bring_forward(flight.calendar, arrives, packet.key, lane)


@compiled
def _comes_first(packet: Record, time_ps: int, key: int) -> bool:
    return packet.time_ps < time_ps or (packet.time_ps == time_ps and packet.key < key)
