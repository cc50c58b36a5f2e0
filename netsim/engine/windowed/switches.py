"""What happens at the links of switches, or at switches as a whole, in one window.

Links with queues share what their switch holds, so that the switch is the unit.
"""

import numpy as np

from netsim.engine.event.calendar import ARRIVAL
from netsim.engine.event.compiled import compiled
from netsim.engine.event.kernel import NEEDS_ROOM
from netsim.engine.event.queued import link_of
from netsim.engine.event.state import Queued, Record, State, Whole
from netsim.engine.event.transit import enter, next_link
from netsim.engine.windowed.ahead import fetch_for_switch, fetch_for_units
from netsim.engine.windowed.departures import hear_word
from netsim.engine.windowed.endings import (
    begins_in_order,
    catch_up,
    end_next,
    end_window,
    may_pause,
    next_end_ps,
    put_in_order,
    settle,
)
from netsim.engine.windowed.gathering import gather
from netsim.engine.windowed.passage import send
from netsim.engine.windowed.pending import await_later, touch_woken
from netsim.engine.windowed.records import GOES_ON
from netsim.engine.windowed.regions import OF_SWITCHES
from netsim.engine.windowed.sorting import sort
from netsim.engine.windowed.timers import is_due
from netsim.engine.windowed.wheel import Wheel, Wheels, lacks_room, lacks_room_for_arrivals, release_chunks


@compiled
def deal_with_switches(state: State, wheels: Wheels, wheel: Wheel) -> Whole:
    """Lets the switches of all regions of a thread deal with their arrivals; returns why the loop must stop.

    Those of the only region, if there is one, have been gathered with its hosts.
    """
    window = wheel.window[0]
    while True:
        if not _deal_with_region(state, wheel):
            return NEEDS_ROOM
        if window.region >= window.regions:
            return GOES_ON
        forget_passed(wheel)
        if lacks_room_for_arrivals(wheels, wheel):
            return NEEDS_ROOM
        gather(state, wheels, wheel)
        touch_woken(wheel, np.int64(window.region))
        window.place = 0
        window.region += window.threads


@compiled
def _deal_with_region(state: State, wheel: Wheel) -> bool:
    """Lets units deal with their arrivals, one after the other; returns whether there was room for all."""
    window = wheel.window[0]
    while window.place < window.touched:
        index = np.int64(wheel.touched[window.place])
        unit = wheel.units[index]
        if not unit.at_host:
            rows = np.int64(unit.begin), np.int64(unit.end)
            sort(wheel.arrivals, wheel.found, wheel.places, *rows, window.number * window.length_ps, window.end_ps)
            if not _pass_on(state, state.queued, wheel, unit, index):
                return False
        window.place += 1
    return True


@compiled
def forget_passed(wheel: Wheel) -> None:
    """Frees the chunks of a region of switches, and the rows of its arrivals."""
    release_chunks(wheel, wheel.used[OF_SWITCHES])
    wheel.window[0].arrivals = wheel.window[0].at_hosts


@compiled
def _pass_on(state: State, queued: Queued | None, wheel: Wheel, unit: Record, index: int) -> bool:
    """A link, or a switch, passes its arrivals on; returns whether there was room for all."""
    window, switch = wheel.window[0], index - len(state.network.links)
    choices = len(state.routing.chosen)
    in_order = begins_in_order(state, queued, wheel, switch)
    while True:
        now, key, packet, arrives = window.cut_ps, np.int64(0), wheel.scratch[0], False
        if unit.begin < unit.end:
            arrival = wheel.arrivals[unit.begin]
            if is_due(arrival, now, key):
                now, key, packet, arrives = arrival.time_ps, arrival.key, wheel.packets[arrival.place], True
        ends = in_order and is_due(wheel.ends[1], now, key)
        if not (ends or arrives):
            break
        if lacks_room(wheel, queued) or state.network.totals[0].chosen == choices:
            return False
        if ends:
            now = wheel.ends[1].time_ps
            end_next(state, queued, wheel)
        else:
            link = index
            if window.by_switch:
                link = next_link(state, packet, now) if key >= ARRIVAL else link_of(queued, state.network.rules[0], key)
            if queued is not None and not in_order:
                if key >= ARRIVAL and may_pause(state, queued, packet):
                    put_in_order(queued, wheel, switch)
                    in_order = True
                    continue
                if not catch_up(state, queued, wheel, link, now + (key >= ARRIVAL)):
                    return False
            unit.begin += 1
            fetch_for_units(state, wheel, unit.begin, np.int64(window.arrivals))
            fetch_for_switch(state, queued, wheel, unit)
            if key >= ARRIVAL:
                send(state, wheel, packet, link, enter(state, packet, link, now))
            else:
                hear_word(state, queued, wheel, key, link, now)
        settle(state, queued, wheel, switch, in_order, now)
    if not end_window(state, queued, wheel, switch):
        return False
    unit.begin = unit.end = 0
    await_later(wheel, index, next_end_ps(queued, wheel, switch))
    return True
