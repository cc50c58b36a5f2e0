"""Ends of transmissions at a switch whose links have queues.

What waits in front of a link, and when it leaves, depends on nothing that ends at other links of the switch, unless
those share memory, packets choose among them, or the end of one lets a queue go on. So ends are mostly caught up with
link by link: as something comes to the link, and as the window ends. Otherwise they are put in order.
"""

import numpy as np

from netsim.engine.event.calendar import END, END_PS, close, empty, push, take_first
from netsim.engine.event.choices import AT_FIRST_SWITCH, AT_SWITCH
from netsim.engine.event.compiled import compiled
from netsim.engine.event.queued import finish
from netsim.engine.event.state import Queued, Record, State, Whole
from netsim.engine.event.transit import link_before
from netsim.engine.windowed.departures import go_on, send_words
from netsim.engine.windowed.wheel import Wheel, lacks_room


@compiled
def next_end_ps(queued: Queued | None, wheel: Wheel, switch: int) -> Whole:
    """When the first transmission at a switch ends that goes on after the window; END_PS if there is none."""
    return END_PS if queued is None else wheel.endings[switch].ends_ps


@compiled
def begins_in_order(state: State, queued: Queued | None, wheel: Wheel, switch: int) -> bool:
    """Puts the ends at a switch in order if anything depends on that order; returns whether it does."""
    if queued is None:
        return False
    rules = state.network.rules[0]
    chooses = rules.choice == AT_SWITCH or rules.choice == AT_FIRST_SWITCH
    if rules.memory_bytes < 0 and not chooses and not queued.switches[switch].told:
        return False
    put_in_order(queued, wheel, switch)
    return True


@compiled
def put_in_order(queued: Queued, wheel: Wheel, switch: int) -> None:
    """Puts the ends at a switch that come in this window into a calendar."""
    empty(wheel.ends)
    link = np.int64(wheel.endings[switch].first)
    while link >= 0:
        served = queued.served[link]
        if served.busy and served.ends_ps < wheel.window[0].cut_ps:
            push(wheel.ends, served.ends_ps, END | link, link)
        link = np.int64(served.next)


@compiled
def may_pause(state: State, queued: Queued, packet: Record) -> bool:
    """Whether a packet makes its switch pause the queue that it came from, if nothing has left the switch since."""
    rules, flow = state.network.rules[0], state.hosts.flows[packet.flow]
    if not rules.pauses:
        return False
    source = link_before(state, packet, flow) * rules.classes + flow.traffic_class
    return queued.queues[source].held + packet.wire > rules.pause_above


@compiled
def catch_up(state: State, queued: Queued, wheel: Wheel, link: int, until_ps: int) -> bool:
    """Lets what a link sends before a moment end, and what waits follow; returns whether there was room for all."""
    served = queued.served[link]
    while served.busy and served.ends_ps < until_ps:
        if lacks_room(wheel, queued):
            return False
        ends_ps = np.int64(served.ends_ps)
        finish(state.network, state.routing, queued, link)
        go_on(state, queued, wheel, link, ends_ps)
    queued.notes[0].begun = -1
    return True


@compiled
def end_next(state: State, queued: Queued | None, wheel: Wheel) -> None:
    """The first transmission of those in order ends; `settle` follows."""
    if queued is not None:
        now, link = wheel.ends[1].time_ps, wheel.ends[1].what
        take_first(wheel.ends)
        finish(state.network, state.routing, queued, link)
        go_on(state, queued, wheel, link, now)


@compiled
def settle(state: State, queued: Queued | None, wheel: Wheel, switch: int, in_order: bool, now: int) -> None:
    """Notes that a switch has begun to send on a link, and sends words."""
    if queued is not None:
        notes = queued.notes[0]
        if notes.begun >= 0:
            link = np.int64(notes.begun)
            notes.begun = -1
            served, ending = queued.served[link], wheel.endings[switch]
            if not served.listed:
                served.listed, served.next = 1, ending.first
                ending.first = link
            if in_order and served.ends_ps < wheel.window[0].cut_ps:
                push(wheel.ends, served.ends_ps, END | link, link)
        close(wheel.ends)
        send_words(state, queued, wheel, now)


@compiled
def end_window(state: State, queued: Queued | None, wheel: Wheel, switch: int) -> bool:
    """Catches up with all links of a switch; returns whether there was room for all."""
    if queued is None:
        return True
    ending, until_ps = wheel.endings[switch], np.int64(wheel.window[0].cut_ps)
    before, link, first_ps = np.int64(-1), np.int64(ending.first), END_PS
    while link >= 0:
        if not catch_up(state, queued, wheel, link, until_ps):
            return False
        served = queued.served[link]
        if served.busy:
            first_ps, before = min(first_ps, served.ends_ps), link
        else:
            served.listed = 0
            if before < 0:
                ending.first = served.next
            else:
                queued.served[before].next = served.next
        link = np.int64(served.next)
    ending.ends_ps = first_ps
    return True
