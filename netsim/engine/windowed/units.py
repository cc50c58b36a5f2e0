"""What happens at the links of switches, or at switches as a whole, and at receivers, in one window.

Links with queues share what their switch holds, so that the switch is the unit.
"""

import numpy as np

from netsim.engine.event.calendar import ARRIVAL, END
from netsim.engine.event.compiled import compiled
from netsim.engine.event.congestion import ASKED
from netsim.engine.event.kernel import FINISHED, NEEDS_ROOM
from netsim.engine.event.state import Queued, Record, State, Whole
from netsim.engine.event.transit import enter, next_link, receive
from netsim.engine.windowed.ahead import fetch_for_units
from netsim.engine.windowed.departures import depart, settle
from netsim.engine.windowed.endings import first_end, take_end
from netsim.engine.windowed.passage import send
from netsim.engine.windowed.pending import activate, await_later
from netsim.engine.windowed.sorting import sort
from netsim.engine.windowed.wheel import Wheel, lacks_room


@compiled
def deal_with_units(state: State, wheel: Wheel) -> Whole:
    """Lets units deal with their arrivals, one after the other; returns why the loop must stop, FINISHED at the end."""
    window = wheel.window[0]
    while window.place < window.touched:
        index = np.int64(wheel.touched[window.place])
        unit = wheel.units[index]
        sort(wheel.arrivals, wheel.found, np.int64(unit.begin), np.int64(unit.end))
        if unit.at_host:
            _receive(state, wheel, unit)
            activate(wheel, index)
        elif not _pass_on(state, state.queued, wheel, unit, index):
            return NEEDS_ROOM
        window.place += 1
    return FINISHED


@compiled
def _receive(state: State, wheel: Wheel, unit: Record) -> None:
    """Data at its receiver becomes acknowledgements; what is not acknowledged is gone.

    A receiver that asks for packets takes note of either when its host goes through the window.
    """
    kept, asks = np.int64(unit.begin), state.network.rules[0].congestion == ASKED
    for row in range(unit.begin, unit.end):
        arrival = wheel.arrivals[row]
        packet = wheel.packets[arrival.place]
        if packet.control or receive(state, packet, state.hosts.flows[packet.flow], arrival.time_ps) or asks:
            wheel.arrivals[kept] = arrival
            kept += 1
    unit.end = kept


@compiled
def _pass_on(state: State, queued: Queued | None, wheel: Wheel, unit: Record, index: int) -> bool:
    """A link, or a switch, passes its arrivals on; returns whether there was room for all."""
    window, switch = wheel.window[0], index - len(state.network.links)
    choices = len(state.routing.chosen)
    ending, ends_ps = first_end(queued, switch)
    while unit.begin < unit.end or ends_ps < window.end_ps:
        if lacks_room(wheel, queued) or state.network.totals[0].chosen == choices:
            return False
        now, key, packet = window.end_ps, np.int64(0), wheel.scratch[0]
        if unit.begin < unit.end:
            fetch_for_units(state, wheel, unit.begin, np.int64(window.arrivals))
            arrival = wheel.arrivals[unit.begin]
            now, key, packet = arrival.time_ps, arrival.key, wheel.packets[arrival.place]
        if ends_ps < now or (ends_ps == now and key >= END):
            take_end(queued, state.network.rules[0], switch, ending)
            depart(state, queued, wheel, END | ending, ending, ends_ps)
        else:
            unit.begin += 1
            if key < ARRIVAL:
                depart(state, queued, wheel, key, ending, now)
            else:
                link = next_link(state, packet, now) if window.by_switch else index
                send(state, wheel, packet, link, enter(state, packet, link, now))
                settle(state, queued, wheel, now)
        ending, ends_ps = first_end(queued, switch)
    unit.begin = unit.end = 0
    await_later(wheel, index, ends_ps)
    return True
