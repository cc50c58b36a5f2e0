"""The choice of the first switch between a minimal path and a detour: `netsim.transport.detouring` in compiled code."""

import numpy as np

from netsim.engine.compiled.draws import draw
from netsim.engine.event.choices import minimal_among
from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Record, State, Whole
from netsim.engine.event.switches import backlog_ps


@compiled
def choose_way(state: State, flow: Record, packet: Record, serial: int, now: int) -> Whole:
    """Path of a packet that is at its first switch, as an index into the ways of its pair of leaves."""
    rules, routing = state.network.rules[0], state.routing
    begin = routing.usable_begin[packet.node]
    count = routing.usable_begin[packet.node + 1] - begin
    minimal = minimal_among(routing, begin, count, routing.minimal[flow.pair])
    some = minimal if minimal else count
    short = routing.usable[begin + np.int64(draw(rules.other_draws, flow.key, serial) % np.uint64(some))]
    if not minimal or minimal == count:
        return short
    drawn = draw(rules.path_draws, flow.key, serial)
    long = routing.usable[begin + minimal + np.int64(drawn % np.uint64(count - minimal))]
    return short if _cost(state, flow, short, now) <= _cost(state, flow, long, now) + rules.bias_ps else long


@compiled
def _cost(state: State, flow: Record, path: int, now: int) -> Whole:
    """Unfinished work in front of the first link of a path, times its number of links between switches."""
    network, way = state.network, flow.first_way + path
    link = state.routing.way_links[way, 0]
    return backlog_ps(network.rules[0], network.links, state.queued, flow, link, now) * state.routing.way_length[way]
