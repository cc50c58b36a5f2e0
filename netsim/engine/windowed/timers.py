"""Timers that run out in the open window, by the links of hosts, which go through them in their order."""

import numpy as np

from netsim.engine.event.calendar import close, first_time, is_pull, push, take_first, timer_key
from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Record, State, Whole
from netsim.engine.windowed.pending import activate
from netsim.engine.windowed.wheel import Wheel, Wheels, owner_of, wheel_of


@compiled
def pull_timers(state: State, wheels: Wheels) -> None:
    """Hands the timers that run out in this window to their hosts' links, which may be another thread's."""
    window, timers = wheels.window[0, 0], state.hosts.timers
    while first_time(timers) < window.end_ps:
        time_ps, key, what = timers[1].time_ps, timers[1].key, timers[1].what
        take_first(timers)
        close(timers)
        link = _link_of(state, key, what)
        wheel = wheel_of(wheels, owner_of(wheels, link))
        _add_timer(wheel, link, time_ps, key, what)
        if state.network.links[link].reverse == link:
            push(wheel.inside, time_ps, key, link)
        else:
            activate(wheel, link)


@compiled
def _link_of(state: State, key: int, what: int) -> Whole:
    """The link of the host whose timer it is: a flow's, or that of a receiver that asks for packets."""
    return np.int64(state.network.links[what].reverse if is_pull(key) else state.hosts.flows[what].up)


@compiled
def _add_timer(wheel: Wheel, link: int, time_ps: int, key: int, what: int) -> None:
    """Adds a timer to those of a link, in their order."""
    window, unit = wheel.window[0], wheel.units[link]
    index = np.int64(window.free_timer)
    if index < 0:
        index = np.int64(window.timers)
        window.timers += 1
    else:
        window.free_timer = wheel.timers[index].next
    timer = wheel.timers[index]
    timer.time_ps, timer.key, timer.what = time_ps, key, what
    before, after = np.int64(-1), np.int64(unit.first_timer)
    while after >= 0 and is_due(wheel.timers[after], time_ps, key):
        before, after = after, np.int64(wheel.timers[after].next)
    timer.next = after
    if before < 0:
        unit.first_timer = index
    else:
        wheel.timers[before].next = index


@compiled
def take_timer(wheel: Wheel, link: int, before: int, index: int) -> None:
    """Takes a timer out of those of a link; `before` is the one before it, or -1."""
    window, timer = wheel.window[0], wheel.timers[index]
    if before < 0:
        wheel.units[link].first_timer = timer.next
    else:
        wheel.timers[before].next = timer.next
    timer.next = window.free_timer
    window.free_timer = index


@compiled
def move_timer_up(state: State, wheel: Wheel, link: int) -> None:
    """Moves the retransmission timer of a flow up to its deadline; it is among the link's timers of this window."""
    totals = state.network.totals[0]
    flow = state.hosts.flows[totals.moves_up]
    key = timer_key(flow.id, 0)
    before, index = np.int64(-1), np.int64(wheel.units[link].first_timer)
    while wheel.timers[index].key != key:
        before, index = index, np.int64(wheel.timers[index].next)
    if wheel.timers[index].time_ps > flow.deadline_ps:
        take_timer(wheel, link, before, index)
        _add_timer(wheel, link, flow.deadline_ps, key, totals.moves_up)
    totals.moves_up = -1


@compiled
def is_due(event: Record, time_ps: int, key: int) -> bool:
    """Whether an arrival or a timer comes before a moment and key."""
    return event.time_ps < time_ps or (event.time_ps == time_ps and event.key < key)
