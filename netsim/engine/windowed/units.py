"""What happens at the links of switches, or at switches as a whole, and at receivers, in one window."""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.kernel import FINISHED, NEEDS_ROOM
from netsim.engine.event.state import Record, State, Whole
from netsim.engine.event.transit import enter, next_link, receive
from netsim.engine.windowed.ahead import fetch_for_units
from netsim.engine.windowed.hosts import activate
from netsim.engine.windowed.passage import send
from netsim.engine.windowed.sorting import sort
from netsim.engine.windowed.wheel import Wheel


@compiled
def deal_with_units(state: State, wheel: Wheel) -> Whole:
    """Lets units deal with their arrivals, one after the other; returns why the loop must stop, FINISHED at the end."""
    window, links = wheel.window[0], state.network.links
    while window.place < window.touched:
        index = np.int64(wheel.touched[window.place])
        unit = wheel.units[index]
        sort(wheel.arrivals, wheel.found, np.int64(unit.begin), np.int64(unit.end))
        if index < len(links) and not links[index].at_switch:
            _receive(state, wheel, unit)
            activate(wheel, index)
        elif not _pass_on(state, wheel, unit, index):
            return NEEDS_ROOM
        window.place += 1
    return FINISHED


@compiled
def _receive(state: State, wheel: Wheel, unit: Record) -> None:
    """Data at its receiver becomes acknowledgements; what is not acknowledged is gone."""
    kept = np.int64(unit.begin)
    for row in range(unit.begin, unit.end):
        arrival = wheel.arrivals[row]
        packet = wheel.packets[arrival.place]
        if packet.control or receive(state, packet, state.hosts.flows[packet.flow], arrival.time_ps):
            wheel.arrivals[kept] = arrival
            kept += 1
    unit.end = kept


@compiled
def _pass_on(state: State, wheel: Wheel, unit: Record, index: int) -> bool:
    """A link, or a switch, passes its arrivals on; returns whether there was room for all."""
    window = wheel.window[0]
    choices = len(state.routing.chosen)
    while unit.begin < unit.end:
        if not window.free_chunks or state.network.totals[0].chosen == choices:
            return False
        fetch_for_units(state, wheel, unit.begin, np.int64(window.arrivals))
        arrival = wheel.arrivals[unit.begin]
        packet, now = wheel.packets[arrival.place], arrival.time_ps
        link = next_link(state, packet, now) if window.by_switch else index
        send(state, wheel, packet, link, enter(state, packet, link, now))
        unit.begin += 1
    unit.begin = unit.end = 0
    return True
