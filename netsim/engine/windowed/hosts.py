"""What happens at hosts in one window: acknowledgements, timers, and links that look for a packet to send.

Each link of a host is on its own until a task begins: then the link that sends its message catches up with that instant
first. Traffic inside a host may end, and let a task begin, within the window: the links inside hosts go through all
instants together with the tasks.
"""

import numpy as np

from netsim.engine.event.calendar import RELEASE, SEND, close, first_time, push, take_first, timer_key
from netsim.engine.event.compiled import compiled
from netsim.engine.event.cutting import admit
from netsim.engine.event.feedback import hear, is_back, run_out
from netsim.engine.event.kernel import ASKS_AFTER_TIMEOUT, ASKS_FOR_PATH, FINISHED, NEEDS_FLOWS, NEEDS_ROOM
from netsim.engine.event.program import next_begin, next_begin_ps
from netsim.engine.event.sender import look
from netsim.engine.event.state import Record, State, Whole
from netsim.engine.event.transit import enter
from netsim.engine.windowed.ahead import fetch_for_hosts
from netsim.engine.windowed.passage import send
from netsim.engine.windowed.wheel import REST, Wheel, due_at, due_now

_NOTHING, _ARRIVAL, _TIMER, _LOOK = range(4)


@compiled
def activate(wheel: Wheel, link: int) -> None:
    """Notes that a host's link has something to do in this window."""
    window, unit = wheel.window[0], wheel.units[link]
    if not unit.active:
        unit.active = 1
        wheel.active[window.active] = link
        window.active += 1


@compiled
def note_look(state: State, wheel: Wheel, link: int) -> None:
    """Notes when a host's link looks for a packet: in this window, or in a later one."""
    ring = state.hosts.rings[link]
    if ring.look_ps < 0:
        return
    if state.network.links[link].reverse == link:
        if not ring.scheduled:
            ring.scheduled = 1
            push(wheel.inside, ring.look_ps, SEND | link, link)
    elif ring.look_ps < wheel.window[0].end_ps:
        activate(wheel, link)
    elif not ring.scheduled:
        _list(wheel, ring, link)


@compiled
def _list(wheel: Wheel, ring: Record, link: int) -> None:
    """Adds a link to those that look for a packet in the window of its next look."""
    due = wheel.due[due_at(wheel, ring.look_ps)]
    ring.scheduled = 1
    wheel.next_look[link] = due.first_look
    due.first_look = link
    wheel.window[0].looks += 1


@compiled
def wake(state: State, wheel: Wheel) -> None:
    """Activates the hosts' links that look for a packet in the window that opens."""
    window = wheel.window[0]
    due = wheel.due[due_now(wheel)]
    link = np.int64(due.first_look)
    due.first_look = -1
    while link >= 0:
        following = np.int64(wheel.next_look[link])
        ring = state.hosts.rings[link]
        window.looks -= 1
        ring.scheduled = 0
        if ring.look_ps < window.end_ps:
            activate(wheel, link)
        else:
            _list(wheel, ring, link)
        link = following


@compiled
def pull_timers(state: State, wheel: Wheel) -> None:
    """Hands the timers that run out in this window to their flows' links."""
    window, timers = wheel.window[0], state.hosts.timers
    while first_time(timers) < window.end_ps:
        time_ps, key, flow = timers[1].time_ps, timers[1].key, timers[1].what
        take_first(timers)
        close(timers)
        link = np.int64(state.hosts.flows[flow].up)
        _add_timer(wheel, link, time_ps, key, flow)
        if state.network.links[link].reverse == link:
            push(wheel.inside, time_ps, key, link)
        else:
            activate(wheel, link)


@compiled
def _add_timer(wheel: Wheel, link: int, time_ps: int, key: int, flow: int) -> None:
    """Adds a timer to those of a link, in their order."""
    window, unit = wheel.window[0], wheel.units[link]
    index = np.int64(window.free_timer)
    if index < 0:
        index = np.int64(window.timers)
        window.timers += 1
    else:
        window.free_timer = wheel.timers[index].next
    timer = wheel.timers[index]
    timer.time_ps, timer.key, timer.flow = time_ps, key, flow
    before, after = np.int64(-1), np.int64(unit.first_timer)
    while after >= 0 and _is_due(wheel.timers[after], time_ps, key):
        before, after = after, np.int64(wheel.timers[after].next)
    timer.next = after
    if before < 0:
        unit.first_timer = index
    else:
        wheel.timers[before].next = index


@compiled
def _take_timer(wheel: Wheel, link: int, before: int, index: int) -> None:
    """Takes a timer out of those of a link; `before` is the one before it, or -1."""
    window, timer = wheel.window[0], wheel.timers[index]
    if before < 0:
        wheel.units[link].first_timer = timer.next
    else:
        wheel.timers[before].next = timer.next
    timer.next = window.free_timer
    window.free_timer = index


@compiled
def _move_timer_up(state: State, wheel: Wheel, link: int) -> None:
    """Moves the retransmission timer of a flow up to its deadline; it is among the link's timers of this window."""
    totals = state.network.totals[0]
    flow = state.hosts.flows[totals.moves_up]
    key = timer_key(flow.id, 0)
    before, index = np.int64(-1), np.int64(wheel.units[link].first_timer)
    while wheel.timers[index].key != key:
        before, index = index, np.int64(wheel.timers[index].next)
    if wheel.timers[index].time_ps > flow.deadline_ps:
        _take_timer(wheel, link, before, index)
        _add_timer(wheel, link, flow.deadline_ps, key, totals.moves_up)
    totals.moves_up = -1


@compiled
def _is_due(event: Record, time_ps: int, key: int) -> bool:
    """Whether an arrival or a timer comes before a moment and key."""
    return event.time_ps < time_ps or (event.time_ps == time_ps and event.key < key)


@compiled
def advance(state: State, wheel: Wheel, link: int, until_ps: int, until_key: int) -> Whole:
    """Lets a host's link go through what happens there before a moment and key.

    Returns:
        Why the loop must stop, in which case this is to be called again; FINISHED if nothing is left to do.
    """
    network, hosts, window, unit = state.network, state.hosts, wheel.window[0], wheel.units[link]
    ring, totals = hosts.rings[link], network.totals[0]
    while True:
        time_ps, key, what = until_ps, until_key, _NOTHING
        if unit.begin < unit.end:
            arrival = wheel.arrivals[unit.begin]
            if _is_due(arrival, time_ps, key):
                time_ps, key, what = arrival.time_ps, arrival.key, _ARRIVAL
        if unit.first_timer >= 0:
            timer = wheel.timers[unit.first_timer]
            if _is_due(timer, time_ps, key):
                time_ps, key, what = timer.time_ps, timer.key, _TIMER
        if ring.look_ps >= 0 and (ring.look_ps < time_ps or (ring.look_ps == time_ps and (SEND | link) < key)):
            time_ps, what = ring.look_ps, _LOOK
        if what == _NOTHING:
            return FINISHED
        if not window.free_chunks:
            return NEEDS_ROOM
        totals.now_ps = time_ps
        if what == _ARRIVAL:
            packet = wheel.packets[wheel.arrivals[unit.begin].place]
            unit.begin += 1
            if is_back(packet):
                hear(state, packet, time_ps)
                if totals.moves_up >= 0:
                    _move_timer_up(state, wheel, link)
            else:
                send(state, wheel, packet, link, enter(state, packet, link, time_ps))
        elif what == _TIMER:
            index = np.int64(unit.first_timer)
            timer = wheel.timers[index]
            flow = np.int64(timer.flow)
            _take_timer(wheel, link, np.int64(-1), index)
            asks = run_out(state, flow, key, time_ps)
            if asks >= 0:
                totals.asks = asks
                return ASKS_AFTER_TIMEOUT
        else:
            packet = wheel.scratch[0]
            asks, arrives = look(state, link, packet, time_ps)
            if asks >= 0:
                totals.asks = asks
                return ASKS_FOR_PATH
            send(state, wheel, packet, link, arrives)
        pull_timers(state, wheel)


@compiled
def deal_with_hosts(state: State, wheel: Wheel) -> Whole:
    """Lets tasks begin and hosts do what they do in the window.

    Returns:
        Why the loop must stop, in which case this is to be called again; FINISHED at the end of the window.
    """
    program, window, totals = state.program, wheel.window[0], state.network.totals[0]
    while True:
        begin_ps, inside_ps = next_begin_ps(program), first_time(wheel.inside)
        link, until_ps, until_key = np.int64(-1), np.int64(window.end_ps), np.int64(0)
        if window.stage == REST:
            if window.place == window.active:
                return FINISHED
            link = np.int64(wheel.active[window.place])
        elif totals.released and begin_ps > window.now_ps:
            if window.place == totals.released:
                totals.now_ps = window.now_ps
                first = totals.flows
                if not admit(state):
                    return NEEDS_FLOWS
                window.place = 0
                _note_admitted(state, wheel, first)
                continue
            link, until_ps, until_key = _link_of(state, program.released[window.place]), window.now_ps, RELEASE
        elif min(begin_ps, inside_ps) >= window.end_ps:
            window.stage, window.place = REST, 0
            continue
        elif begin_ps <= inside_ps:
            window.now_ps = begin_ps
            next_begin(program, totals, begin_ps)
            continue
        else:
            link, until_ps, until_key = wheel.inside[1].what, inside_ps, wheel.inside[1].key + 1
        why = advance(state, wheel, link, until_ps, until_key)
        if why != FINISHED:
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
def _note_admitted(state: State, wheel: Wheel, first: int) -> None:
    """Notes when the links of flows that have been admitted, those from `first` on, look for a packet."""
    for index in range(first, state.network.totals[0].flows):
        note_look(state, wheel, np.int64(state.hosts.flows[index].up))
    pull_timers(state, wheel)


@compiled
def _take_inside(state: State, wheel: Wheel, link: int) -> None:
    """The first event inside a host has happened."""
    if wheel.inside[1].key >= SEND:
        state.hosts.rings[link].scheduled = 0
    take_first(wheel.inside)
    close(wheel.inside)
    note_look(state, wheel, link)


@compiled
def _leave_window(state: State, wheel: Wheel, link: int) -> None:
    """A link has done everything in this window."""
    unit, ring = wheel.units[link], state.hosts.rings[link]
    unit.begin = unit.end = unit.active = 0
    if ring.look_ps >= 0 and not ring.scheduled:
        _list(wheel, ring, link)
