"""Hints which records units and hosts will need soon: at size they lie outside the caches, and their order is known."""

import numpy as np

from netsim.engine.compiled.lines import LINE_BYTES
from netsim.engine.compiled.prefetch import prefetch, prefetch_to_read
from netsim.engine.event.calendar import ARRIVAL
from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Queued, Record, State
from netsim.engine.event.transit import link_before, planned_link
from netsim.engine.windowed.wheel import CHUNK, Wheel

_FAR, _NEAR, _NEXT = 12, 6, 3
"""How many hosts ahead: first a record, then those to which it points."""
_RECORDS, _FLOWS, _ROWS = 16, 11, 6
"""How many arrivals ahead: packets and links, flows, whether a packet has arrived before."""


@compiled
def fetch_packets(wheel: Wheel, chunk: int, left: int) -> None:
    """Fetches the packets of a chunk, with which so many are left in its bucket."""
    for place in range(chunk * CHUNK, chunk * CHUNK + min(left, CHUNK)):
        prefetch(wheel.packets, place, 0)


@compiled
def fetch_next_links(state: State, wheel: Wheel, chunk: int, left: int) -> None:
    """Fetches what says where the packets of a chunk go next: their way, or their flow for the last link."""
    for place in range(chunk * CHUNK, chunk * CHUNK + min(left, CHUNK)):
        packet = wheel.packets[place]
        if packet.unit < 0:
            if packet.hop + 1 == packet.links:
                prefetch(state.hosts.flows, packet.flow, 3 * LINE_BYTES)
            else:
                prefetch_to_read(state.routing.way_links, packet.way * state.routing.way_links.shape[1], 0)


@compiled
def fetch_for_units(state: State, wheel: Wheel, row: int, end: int) -> None:
    """Fetches what the arrivals behind a row need: packet and link, flow, whether the packet has arrived before."""
    hosts, arrivals, packets = state.hosts, wheel.arrivals, wheel.packets
    if row + _RECORDS < end:
        arrival = arrivals[row + _RECORDS]
        prefetch(packets, arrival.place, 0)
        prefetch(wheel.units, arrival.unit, 0)
        if arrival.unit < len(state.network.links):
            prefetch(state.network.links, arrival.unit, 0)
    if row + _FLOWS < end:
        packet = packets[arrivals[row + _FLOWS].place]
        if packet.hop + 1 == packet.links:
            prefetch(hosts.flows, packet.flow, 3 * LINE_BYTES)
            prefetch(state.routing.way_answers, packet.way, 0)
    if row + _ROWS < end:
        packet = packets[arrivals[row + _ROWS].place]
        if packet.hop + 1 == packet.links:
            prefetch(hosts.arrived, hosts.flows[packet.flow].arrival_row + packet.sequence, 0)


@compiled
def fetch_for_switch(state: State, queued: Queued | None, wheel: Wheel, unit: Record) -> None:
    """Fetches what a switch whose links have queues needs of its next arrivals: flows, then links and queues."""
    row = np.int64(unit.begin)
    if queued is not None and row + _NEAR < unit.end:
        packet = wheel.packets[wheel.arrivals[row + _NEAR].place]
        prefetch_to_read(state.hosts.flows, packet.flow, 2 * LINE_BYTES)
        prefetch(state.hosts.flows, packet.flow, 3 * LINE_BYTES)
        prefetch_to_read(state.routing.way_links, packet.way * state.routing.way_links.shape[1], 0)
    if queued is not None and row + _NEXT < unit.end and wheel.arrivals[row + _NEXT].key >= ARRIVAL:
        packet = wheel.packets[wheel.arrivals[row + _NEXT].place]
        flow = state.hosts.flows[packet.flow]
        _fetch_link(state, queued, planned_link(state, packet, flow), np.int64(flow.traffic_class))
        came = link_before(state, packet, flow) * state.network.rules[0].classes + flow.traffic_class
        prefetch(queued.queues, came, 0)


@compiled
def fetch_for_hosts(state: State, wheel: Wheel, place: int) -> None:
    """Fetches what the hosts behind a place among the active ones need: link and ring, then packets, then flows."""
    hosts, units, links, last = state.hosts, wheel.units, state.network.links, wheel.window[0].active - 1
    link = wheel.active[min(place + _FAR, last)]
    prefetch(units, link, 0)
    prefetch(hosts.rings, link, 0)
    prefetch(links, link, 0)
    _fetch_link(state, state.queued, link, np.int64(0))
    unit = units[wheel.active[min(place + _NEAR + _NEXT, last)]]
    for row in range(unit.begin, unit.end):
        prefetch(wheel.packets, wheel.arrivals[row].place, 0)
    link = wheel.active[min(place + _NEAR, last)]
    unit, flow = units[link], np.int64(hosts.rings[link].first)
    for row in range(unit.begin, unit.end):
        flow = np.int64(wheel.packets[wheel.arrivals[row].place].flow)
    if flow >= 0:
        prefetch(hosts.flows, flow, 0)
        prefetch(hosts.flows, flow, LINE_BYTES)
        prefetch_to_read(hosts.flows, flow, 2 * LINE_BYTES)
    link = wheel.active[min(place + _NEXT, last)]
    unit, index = units[link], np.int64(hosts.rings[link].first)
    for row in range(unit.begin, unit.end):
        packet = wheel.packets[wheel.arrivals[row].place]
        index = np.int64(packet.flow)
        prefetch(hosts.sent, hosts.flows[index].first_row + packet.sequence, 0)
    if index >= 0:
        flow = hosts.flows[index]
        prefetch(hosts.sent, flow.first_row + flow.next, 0)
        prefetch_to_read(state.routing.usable_begin, flow.pair * state.network.rules[0].epochs, 0)


@compiled
def _fetch_link(state: State, queued: Queued | None, link: int, traffic_class: int) -> None:
    """Fetches a link with queues, the queue of a class in front of it, and what is on the link."""
    if queued is not None:
        place = link * state.network.rules[0].classes + traffic_class
        prefetch(state.network.links, link, 0)
        prefetch(queued.queues, place, 0)
        prefetch(queued.served, link, 0)
