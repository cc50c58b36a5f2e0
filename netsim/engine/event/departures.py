"""Ends of transmissions, and words that stop and resume links with queues, in compiled code."""

from netsim.engine.event.calendar import END, take_first
from netsim.engine.event.compiled import compiled
from netsim.engine.event.queued import (
    begin,
    finish,
    link_of,
    lose,
    next_queue,
    release,
    stop_or_resume,
    take_end,
    take_out,
)
from netsim.engine.event.queues import service_of
from netsim.engine.event.rates import next_down, rate_at
from netsim.engine.event.sender import look_at
from netsim.engine.event.state import Queued, State
from netsim.engine.event.transit import drop, forward


@compiled
def depart(state: State, queued: Queued | None, key: int, what: int, listed: bool, now: int) -> None:
    """A transmission ends, or a word arrives; `listed`: the former, and it is in a list, not in the calendar."""
    if queued is not None:
        network, link = state.network, what
        if listed:
            take_end(network, queued, what)
        else:
            take_first(network.calendar)
        if key >= END:
            finish(network, state.routing, queued, link, now)
        else:
            if not stop_or_resume(queued, what, now):
                return
            link = link_of(queued, network.rules[0], what)
        _go_on(state, queued, link, now)
        if key < END:
            ring = state.hosts.rings[what]
            if ring.first >= 0 and not ring.looks:
                look_at(network, ring, link, what, now)


@compiled
def _go_on(state: State, queued: Queued, at: int, now: int) -> None:
    """Begins the next transmission of a link that is free; packets on a link that is down are lost in turn."""
    network, routing = state.network, state.routing
    rules, link, served = network.rules[0], network.links[at], queued.served[at]
    while not served.busy:
        place = next_queue(rules, queued, at)
        if place < 0:
            return
        index = take_out(network, queued, place)
        packet, waiting = network.packets[index], queued.waiting[index]
        service, source = waiting.work_ps, waiting.source
        if link.varies:
            rate = rate_at(network, at, now)
            service = service_of(rules, link, packet.wire, rate) if rate else 0
            if not rate or next_down(network, at, waiting.came_ps) < now + service:
                release(network, routing, queued, at, packet.wire, source, place, now)
                lose(network, packet, at, now)
                drop(network, index)
                continue
        begin(network, queued, packet, at, place, source, service, waiting.found_ps, waiting.came_ps, now)
        forward(state, index, packet, state.hosts.flows[packet.flow], at, now + service)
