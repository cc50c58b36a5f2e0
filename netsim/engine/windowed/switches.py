"""What happens at the links of switches, or at switches as a whole, in one window.

Links with queues share what their switch holds, so that the switch is the unit.
"""

import numpy as np

from netsim.engine.event.calendar import ARRIVAL, END
from netsim.engine.event.compiled import compiled
from netsim.engine.event.kernel import FINISHED, NEEDS_ROOM
from netsim.engine.event.state import Queued, Record, State, Whole
from netsim.engine.event.transit import enter, next_link
from netsim.engine.windowed.ahead import fetch_for_end, fetch_for_switch, fetch_for_units
from netsim.engine.windowed.departures import depart, settle
from netsim.engine.windowed.endings import first_end, take_end
from netsim.engine.windowed.passage import send
from netsim.engine.windowed.pending import await_later
from netsim.engine.windowed.regions import OF_SWITCHES
from netsim.engine.windowed.sorting import sort
from netsim.engine.windowed.timers import is_due
from netsim.engine.windowed.wheel import Wheel, lacks_room, release_chunks


@compiled
def deal_with_switches(state: State, wheel: Wheel) -> Whole:
    """Lets units deal with their arrivals, one after the other; returns why the loop must stop, FINISHED at the end."""
    window = wheel.window[0]
    while window.place < window.touched:
        index = np.int64(wheel.touched[window.place])
        unit = wheel.units[index]
        if not unit.at_host:
            rows = np.int64(unit.begin), np.int64(unit.end)
            sort(wheel.arrivals, wheel.found, wheel.places, *rows, window.number * window.length_ps, window.end_ps)
            if not _pass_on(state, state.queued, wheel, unit, index):
                return NEEDS_ROOM
        window.place += 1
    return FINISHED


@compiled
def forget_passed(wheel: Wheel) -> None:
    """Frees the chunks of a region of switches, and the rows of its arrivals."""
    release_chunks(wheel, OF_SWITCHES)
    wheel.window[0].arrivals = wheel.window[0].at_hosts


@compiled
def _pass_on(state: State, queued: Queued | None, wheel: Wheel, unit: Record, index: int) -> bool:
    """A link, or a switch, passes its arrivals on; returns whether there was room for all."""
    window, switch = wheel.window[0], index - len(state.network.links)
    choices = len(state.routing.chosen)
    ending, ends_ps = first_end(queued, switch)
    while True:
        now, key, packet, arrives = window.cut_ps, np.int64(0), wheel.scratch[0], False
        if unit.begin < unit.end:
            fetch_for_units(state, wheel, unit.begin, np.int64(window.arrivals))
            fetch_for_switch(state, queued, wheel, unit)
            arrival = wheel.arrivals[unit.begin]
            if is_due(arrival, now, key):
                now, key, packet, arrives = arrival.time_ps, arrival.key, wheel.packets[arrival.place], True
        ends = ends_ps < now or (ends_ps == now and (END | ending) < key)
        if not (ends or arrives):
            break
        if lacks_room(wheel, queued) or state.network.totals[0].chosen == choices:
            return False
        if ends:
            now, key = ends_ps, END | ending
            fetch_for_end(state, queued, wheel, ending)
            take_end(queued, state.network.rules[0], switch, ending)
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
