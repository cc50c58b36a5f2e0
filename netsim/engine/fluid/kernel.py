"""The loop of the compiled flow-level engine: from one instant at which something happens to the next."""

import numpy as np

from netsim.engine.compiled.service import service_ps
from netsim.engine.event.admission import prepare_waiting
from netsim.engine.event.calendar import END_PS, empty
from netsim.engine.event.compiled import called, compiled
from netsim.engine.event.cutting import cut
from netsim.engine.event.program import begin_roots, delivered, next_begin, next_begin_ps
from netsim.engine.event.state import Array, Hosts, Network, Program, Record, Routing, State, Whole
from netsim.engine.fluid.ends import first_end
from netsim.engine.fluid.sharing import join, settle, take_first, wait_for_turn
from netsim.engine.fluid.streams import AFFECTED, FLOWS, SETTLED_PS, STARTED, Streams

FINISHED, NEEDS_ROOM, UNFAIR, PAUSED, IN_TIME = range(5)
"""Why the loop stops: everything is done; released messages need room for their flows; rates are not max-min fair;
Python may look at the clock; the simulated time is limited to now."""

_ROUNDING_PS = 1e-3
_ROUNDING = 1e-13
"""Tolerance of times for rounding, absolute and relative."""
_MOMENTS_BETWEEN_PAUSES = 1 << 12
_MANY, _PACKETS = 32, 4
"""Flows above which rates that departures raise are settled together, once in the service of so many packets.

The last packet of a message takes this long over the four links between two hosts, too.
"""


@called
def run(arrays: tuple[tuple[Array, ...], ...], of_streams: tuple[Array, ...]) -> Whole:
    """Simulates until the loop must stop, and returns why."""
    state = State(Network(*arrays[0]), Hosts(*arrays[1]), Program(*arrays[2]), Routing(*arrays[3]), None)
    streams, counts = Streams(*of_streams), of_streams[-1]
    totals, program, rules = state.network.totals[0], state.program, state.network.rules[0]
    if totals.now_ps < 0:
        totals.now_ps = 0
        begin_roots(program, totals)
    moments = 0
    while True:
        moments += 1
        if moments == _MOMENTS_BETWEEN_PAUSES:
            return PAUSED
        now = totals.now_ps
        while next_begin_ps(program) == now:
            next_begin(program, totals, now)
        if totals.released:
            if totals.released * rules.parts > len(state.hosts.flows):
                return NEEDS_ROOM
            _start(state, streams, now)
        delay_ps = _patience_ps(state, streams)
        waits = counts[AFFECTED] > 0 and not counts[STARTED] and now < counts[SETTLED_PS] + delay_ps
        if not waits and counts[AFFECTED]:
            many = counts[AFFECTED] > _MANY
            if not settle(streams, now):
                return UNFAIR
            counts[SETTLED_PS] = now if many else -END_PS
            counts[STARTED] = 0
        due_ps = next_begin_ps(program)
        first = first_end(streams)
        if first < END_PS:
            whole = np.int64(np.ceil(first - max(_ROUNDING_PS, _ROUNDING * first)))
            due_ps = min(due_ps, max(now, whole))
        if waits:
            due_ps = min(due_ps, counts[SETTLED_PS] + delay_ps)
        if due_ps == END_PS:
            return FINISHED
        if due_ps > rules.end_ps and totals.undone:
            totals.now_ps = rules.end_ps
            return IN_TIME
        totals.now_ps = due_ps
        _drain(state, streams, due_ps)


@compiled
def _patience_ps(state: State, streams: Streams) -> Whole:
    """How long rates that departures raise may wait."""
    link = streams.links[state.routing.up[0]]
    return _PACKETS * service_ps(state.network.rules[0].full_wire, link.rate_bps)


@compiled
def _start(state: State, streams: Streams, now: int) -> None:
    """Turns the messages of this instant into flows, all of which start."""
    network, hosts, counts = state.network, state.hosts, streams.counts
    totals, rules = network.totals[0], network.rules[0]
    cut(state)
    totals.released = 0
    prepare_waiting(state)
    for place in range(totals.flows):
        flow, index = hosts.flows[place], counts[FLOWS]
        counts[FLOWS] += 1
        stream, message = streams.flows[index], streams.messages[index]
        message.id, message.task, message.bytes = flow.id, flow.task, flow.bytes
        message.start_ps = stream.since_ps = now
        stream.left = flow.bytes + rules.header * flow.packets
        stream.up, stream.down = flow.up, flow.down
        if flow.up == flow.down:
            stream.down = -1
        elif flow.path >= 0:
            stream.segment = flow.first_way + flow.path
        else:
            stream.segment = len(state.routing.way_length) + flow.pair
        join(streams, index)
        if stream.segment < len(state.routing.way_length):
            wait_for_turn(streams, index, rules.full_wire, now)
    totals.flows = totals.rows = 0
    empty(hosts.turns)
    counts[STARTED] = 1


@compiled
def _drain(state: State, streams: Streams, now: int) -> None:
    """Flows that have sent everything, or will within a picosecond, leave; their last bytes arrive later."""
    while first_end(streams) <= now + 1.0:
        index = take_first(streams)
        flow, message = streams.flows[index], streams.messages[index]
        last = streams.links[flow.up]
        latency_ps = _latency_ps(state, streams, flow, message.bytes)
        message.end_ps = now + latency_ps
        if last.last_ps < now:
            last.last_ps, last.rest_ps = now, 0
        last.rest_ps = max(last.rest_ps, latency_ps)
        delivered(state.program, message.task, message.end_ps)


@compiled
def _latency_ps(state: State, streams: Streams, flow: Record, size_bytes: int) -> Whole:
    """Latency of the last bytes: delays, and service of the last packet on all links but the first."""
    rules, routing = state.network.rules[0], state.routing
    latency_ps = streams.links[flow.up].delay_ps
    if flow.down < 0:
        return latency_ps
    last_bytes = (size_bytes - 1) % rules.payload + 1 + rules.header
    ways, way = len(routing.way_length), np.int64(flow.segment)
    if way >= ways:
        pair = way - ways
        way = routing.way_begin[pair] + routing.usable[routing.usable_begin[pair]]
    for hop in range(routing.way_length[way]):
        link = streams.links[routing.way_links[way, hop]]
        latency_ps += link.delay_ps + service_ps(last_bytes, link.rate_bps)
    link = streams.links[flow.down]
    return latency_ps + link.delay_ps + service_ps(last_bytes, link.rate_bps)
