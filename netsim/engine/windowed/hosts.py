"""What happens at hosts in one window: acknowledgements, timers, and links that look for a packet to send.

Each link of a host is on its own until a task begins: then the link that sends its message catches up with that instant
first. Traffic inside a host may end, and let a task begin, within the window: the links inside hosts go through all
instants together with the tasks. The leader does all this, also for the hosts of other threads, which wait meanwhile.
"""

import numpy as np

from netsim.engine.event.calendar import ARRIVAL, END, RELEASE, SEND, close, first_time, is_pull, take_first
from netsim.engine.event.compiled import compiled
from netsim.engine.event.congestion import ASKED
from netsim.engine.event.credit import note, pull
from netsim.engine.event.cutting import admit
from netsim.engine.event.feedback import hear, is_back, run_out
from netsim.engine.event.kernel import ASKS_AFTER_TIMEOUT, ASKS_FOR_PATH, NEEDS_FLOWS, NEEDS_ROOM
from netsim.engine.event.program import next_begin, next_begin_ps
from netsim.engine.event.sender import look
from netsim.engine.event.state import State, Whole
from netsim.engine.event.transit import GONE, enter
from netsim.engine.windowed.ahead import fetch_for_hosts
from netsim.engine.windowed.departures import depart, end_ps, note_inside
from netsim.engine.windowed.inside import send_before
from netsim.engine.windowed.passage import send
from netsim.engine.windowed.pending import first_look, note_look
from netsim.engine.windowed.receivers import next_receipt, receive_next
from netsim.engine.windowed.records import GOES_ON, REST
from netsim.engine.windowed.shares import Shares, acting
from netsim.engine.windowed.timers import is_due, move_timer_up, pull_timers, take_timer
from netsim.engine.windowed.wheel import Wheel, Wheels, lacks_room, owner_of, wheel_of

_NOTHING, _ARRIVAL, _TIMER, _END, _LOOK = range(5)


@compiled
def advance(state: State, wheels: Wheels, wheel: Wheel, link: int, until_ps: int, until_key: int) -> Whole:
    """Lets a host's link go through what happens there before a moment and key.

    Returns why the loop must stop, in which case this is to be called again; GOES_ON if nothing is left to do.
    """
    rules, unit = state.network.rules[0], wheel.units[link]
    while True:
        time_ps, key, what = until_ps, until_key, _NOTHING
        if unit.begin < unit.end:
            arrival = wheel.arrivals[unit.begin]
            if is_due(arrival, time_ps, key):
                time_ps, key, what = arrival.time_ps, arrival.key, _ARRIVAL
        if unit.first_timer >= 0:
            timer = wheel.timers[unit.first_timer]
            if is_due(timer, time_ps, key):
                time_ps, key, what = timer.time_ps, timer.key, _TIMER
        ends_ps = end_ps(state.queued, link)
        if ends_ps < time_ps or (ends_ps == time_ps and (END | link) < key):
            time_ps, key, what = ends_ps, END | link, _END
        if state.network.links[link].reverse == link:
            send_before(state, state.queued, link, time_ps)
        ring, look_ps = first_look(state.hosts, state.queued, rules, link)
        if look_ps < time_ps or (look_ps == time_ps and (SEND | ring) < key):
            time_ps, key, what = look_ps, SEND | ring, _LOOK
        if what == _NOTHING:
            return GOES_ON
        if lacks_room(wheel, state.queued):
            return NEEDS_ROOM
        state.network.totals[0].now_ps = time_ps
        why = _let_happen(state, wheel, link, what, key, time_ps)
        if why != GOES_ON:
            return why
        note_inside(state, state.queued, wheel)
        pull_timers(state, wheels)


@compiled
def _let_happen(state: State, wheel: Wheel, link: int, what: int, key: int, now: int) -> Whole:
    """Lets a host's link do the next thing; returns why the loop must stop, or GOES_ON."""
    hosts, unit, totals = state.hosts, wheel.units[link], state.network.totals[0]
    packet, asks, arrives = wheel.scratch[0], np.int64(-1), GONE
    if what == _ARRIVAL:
        packet = wheel.packets[wheel.arrivals[unit.begin].place]
        unit.begin += 1
    if key < ARRIVAL:
        depart(state, state.queued, wheel, key, link, now)
        return GOES_ON
    if what == _ARRIVAL:
        if is_back(packet):
            hear(state, packet, now)
            if totals.moves_up >= 0:
                move_timer_up(state, wheel, link)
            return GOES_ON
        if state.network.rules[0].congestion == ASKED:
            note(hosts, packet, hosts.flows[packet.flow], now)
        if not packet.control:
            return GOES_ON
    elif what == _TIMER:
        about = np.int64(wheel.timers[unit.first_timer].what)
        take_timer(wheel, link, np.int64(-1), np.int64(unit.first_timer))
        if not is_pull(key):
            asks = run_out(state, about, key, now)
            totals.asks = asks
            return ASKS_AFTER_TIMEOUT if asks >= 0 else GOES_ON
        pull(state, about, packet, now)
    if what == _LOOK:
        asks, arrives = look(state, key - SEND, packet, now)
        if asks >= 0:
            totals.asks = asks
            return ASKS_FOR_PATH
    else:
        arrives = enter(state, packet, link, now)
    send(state, wheel, packet, link, arrives)
    return GOES_ON


@compiled
def deal_with_hosts(state: State, shares: Shares, wheels: Wheels, wheel: Wheel) -> Whole:
    """Lets tasks begin, and in the last stage the hosts of a thread do what they do in the window.

    Returns why the loop must stop, in which case this is to be called again; GOES_ON at the end of either stage.
    """
    program, window, totals = state.program, wheel.window[0], state.network.totals[0]
    while True:
        begin_ps, inside_ps = next_begin_ps(program), first_time(wheel.inside)
        receipt_ps, receipt_key = next_receipt(wheel)
        link, until_ps, until_key = np.int64(-1), np.int64(window.cut_ps), np.int64(0)
        if window.stage == REST:
            if window.place == window.active:
                return np.int64(GOES_ON)
            link = np.int64(wheel.active[window.place])
        elif totals.released and min(begin_ps, receipt_ps) > window.now_ps:
            if window.place == totals.released:
                totals.now_ps = window.now_ps
                first = totals.flows
                if not admit(state):
                    return NEEDS_FLOWS
                window.place = 0
                _note_admitted(state, wheels, first)
                continue
            link, until_ps, until_key = _link_of(state, program.released[window.place]), window.now_ps, RELEASE
        elif min(begin_ps, inside_ps, receipt_ps) >= window.cut_ps:
            return np.int64(GOES_ON)
        elif begin_ps <= min(inside_ps, receipt_ps):
            window.now_ps = begin_ps
            next_begin(program, totals, begin_ps)
            if state.network.rules[0].ends_early and not totals.undone:
                window.over, window.cut_ps = 1, begin_ps + 1
            continue
        elif receipt_ps < inside_ps or (receipt_ps == inside_ps and receipt_key < wheel.inside[1].key):
            receive_next(state, wheel)
            continue
        else:
            link, until_ps, until_key = wheel.inside[1].what, inside_ps, wheel.inside[1].key + 1
        owner = owner_of(wheels, link)
        why = advance(acting(state, shares, owner), wheels, wheel_of(wheels, owner), link, until_ps, until_key)
        if why != GOES_ON:
            return why
        if window.stage != REST and until_key != RELEASE:
            _take_inside(state, wheel, link)
            continue
        if window.stage == REST:
            _leave_window(state, wheel, link)
            fetch_for_hosts(state, wheel, np.int64(window.place))
        window.place += 1


@compiled
def _link_of(state: State, task: int) -> Whole:
    """The link that sends the message of a task."""
    src, dst = state.program.src_host[task], state.program.dst_host[task]
    return state.routing.inside[src] if src == dst else state.routing.up[src]


@compiled
def _note_admitted(state: State, wheels: Wheels, first: int) -> None:
    """Notes when the links of flows that have been admitted, those from `first` on, look for a packet."""
    for index in range(first, state.network.totals[0].flows):
        link = np.int64(state.hosts.flows[index].up)
        note_look(state, wheel_of(wheels, owner_of(wheels, link)), link)
    pull_timers(state, wheels)


@compiled
def _take_inside(state: State, wheel: Wheel, link: int) -> None:
    """The first event inside a host has happened."""
    if wheel.inside[1].key >= SEND:
        state.hosts.rings[wheel.inside[1].key - SEND].scheduled = 0
    take_first(wheel.inside)
    close(wheel.inside)
    note_look(state, wheel, link)


@compiled
def _leave_window(state: State, wheel: Wheel, link: int) -> None:
    """A link has done everything in this window."""
    unit = wheel.units[link]
    unit.begin = unit.end = unit.active = 0
    if not wheel.window[0].over:
        note_look(state, wheel, link)
