"""Units that will do something on their own: hosts' links that look for a packet, and links whose transmissions end."""

import numpy as np

from netsim.engine.event.calendar import END_PS, SEND, move_up, push
from netsim.engine.event.compiled import compiled
from netsim.engine.event.queued import first_ring
from netsim.engine.event.state import Hosts, Queued, Record, State, Whole
from netsim.engine.windowed.departures import end_ps
from netsim.engine.windowed.endings import next_end_ps
from netsim.engine.windowed.inside import first_end_ps
from netsim.engine.windowed.wheel import Wheel


@compiled
def activate(wheel: Wheel, link: int) -> None:
    """Notes that a host's link has something to do in this window."""
    window, unit = wheel.window[0], wheel.units[link]
    if not unit.active:
        unit.active = 1
        wheel.active[window.active] = link
        window.active += 1


@compiled
def first_look(hosts: Hosts, queued: Queued | None, rules: Record, link: int) -> tuple[Whole, Whole]:
    """The ring of a host's link that looks for a packet first, and when; END_PS if none does."""
    first = first_ring(queued, rules, link)
    first_ps = hosts.rings[first].look_ps if hosts.rings[first].look_ps >= 0 else END_PS
    for ring in range(first + 1, first + rules.classes):
        look_ps = hosts.rings[ring].look_ps
        if 0 <= look_ps < first_ps:
            first, first_ps = np.int64(ring), look_ps
    return first, first_ps


@compiled
def note_look(state: State, wheel: Wheel, link: int) -> None:
    """Notes when a host's link has something to do on its own: in this window, or in a later one."""
    if state.network.links[link].reverse == link:
        _look_inside(state, wheel, link)
        return
    due_ps = _due_ps(state, state.queued, wheel, link)
    if due_ps < wheel.window[0].end_ps:
        activate(wheel, link)
    else:
        await_later(wheel, link, due_ps)


@compiled
def _look_inside(state: State, wheel: Wheel, link: int) -> None:
    """Puts a link inside a host on the calendar of those; a flow that has joined may end before the one noted there."""
    first = first_ring(state.queued, state.network.rules[0], link)
    for place in range(first, first + state.network.rules[0].classes):
        ring = state.hosts.rings[place]
        if ring.look_ps < 0:
            continue
        if ring.scheduled:
            move_up(wheel.inside, ring.look_ps, SEND | place)
        else:
            ring.scheduled = 1
            push(wheel.inside, first_end_ps(state, state.queued, place), SEND | place, link)


@compiled
def await_later(wheel: Wheel, index: int, due_ps: int) -> None:
    """Adds a unit to those that have something to do on their own in a later window, unless it never has."""
    window, unit = wheel.window[0], wheel.units[index]
    if due_ps == END_PS:
        return
    window.due_ps = min(window.due_ps, due_ps)
    if not unit.pending:
        unit.pending = 1
        wheel.pending[window.pending] = index
        window.pending += 1


@compiled
def wake(state: State, wheel: Wheel) -> None:
    """Finds the units that have something to do on their own in the window that opens."""
    window, links, kept = wheel.window[0], len(state.network.links), np.int64(0)
    window.due_ps, window.woken = END_PS, 0
    for place in range(window.pending):
        index = np.int64(wheel.pending[place])
        unit, due_ps = wheel.units[index], _due_ps(state, state.queued, wheel, index)
        if window.end_ps <= due_ps < END_PS:
            wheel.pending[kept] = index
            kept += 1
            window.due_ps = min(window.due_ps, due_ps)
            continue
        unit.pending = 0
        if due_ps == END_PS:
            continue
        if index < links:
            activate(wheel, index)
        else:
            wheel.woken[window.woken] = index
            window.woken += 1
    window.pending = kept


@compiled
def touch_woken(wheel: Wheel, region: int) -> None:
    """Adds the switches of a region where transmissions end, but nothing arrives, to those with something to do."""
    window = wheel.window[0]
    for place in range(window.woken):
        index = np.int64(wheel.woken[place])
        if wheel.region[index] == region and wheel.units[index].begin == wheel.units[index].end:
            wheel.touched[window.touched] = index
            window.touched += 1


@compiled
def _due_ps(state: State, queued: Queued | None, wheel: Wheel, index: int) -> Whole:
    """When a unit has something to do on its own; END_PS if it never has."""
    if index >= len(state.network.links):
        return next_end_ps(queued, wheel, index - len(state.network.links))
    look_ps = first_look(state.hosts, queued, state.network.rules[0], index)[1]
    return min(look_ps, end_ps(queued, index))
