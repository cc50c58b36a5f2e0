"""Creation of flows at their hosts, in compiled code."""

import numpy as np

from netsim.congestion.protocol import UNLIMITED
from netsim.engine.compiled.draws import draw
from netsim.engine.event.calendar import RELEASE, close, push, take_first
from netsim.engine.event.compiled import compiled
from netsim.engine.event.congestion import ASKED, go_on, start
from netsim.engine.event.keys import flow_key
from netsim.engine.event.sender import enter_ring
from netsim.engine.event.state import Program, Record, State, Whole

DRAWN, ROTATED, AS_GIVEN = range(3)
"""Orders of flows that are admitted together."""

_SIGN = np.uint64(1 << 63)
_LONG_AGO = np.int64(-(2**62))


@compiled
def create(state: State, identity: int, task: int, size_bytes: int, path: int, delay_ps: int, turn: int) -> None:
    """Creates a flow with a path of all its packets, or -1; it waits for `line_up`, or for the end of its delay.

    `turn` is its place among those that its host releases together, if the transport orders them.
    """
    network, hosts, program = state.network, state.hosts, state.program
    rules, totals = network.rules[0], network.totals[0]
    now, index = totals.now_ps, totals.flows
    totals.flows = index + 1
    flow = hosts.flows[index]
    flow.id, flow.task, flow.bytes, flow.path = identity, task, size_bytes, path
    flow.key = flow_key(network, identity)
    program.flows_left[task] += 1
    if _waits_for_turn(rules):
        flow.start_ps = now + delay_ps
        push(hosts.turns, _turn(rules, program, flow, turn), identity, index)
        return
    _prepare(state, flow, index, program.src_host[task], program.dst_host[task], now, now + delay_ps)
    if delay_ps:
        push(hosts.timers, now + delay_ps, RELEASE | (1 + identity), index)
    else:
        push(hosts.turns, _turn(rules, program, flow, turn), identity, index)


@compiled
def line_up(state: State) -> None:
    """Flows of one instant enter their hosts' rings in their order, in which some are also prepared."""
    hosts, program, waited = state.hosts, state.program, _waits_for_turn(state.network.rules[0])
    turns, now = hosts.turns, state.network.totals[0].now_ps
    while turns[0].time_ps:
        index = turns[1].what
        take_first(turns)
        close(turns)
        if waited:
            flow = hosts.flows[index]
            start_ps = flow.start_ps
            _prepare(state, flow, index, program.src_host[flow.task], program.dst_host[flow.task], now, start_ps)
            if start_ps > now:
                push(hosts.timers, start_ps, RELEASE | (1 + flow.id), index)
                continue
        enter_ring(state, index, now)


@compiled
def prepare_waiting(state: State) -> None:
    """Fills in the records of flows that `line_up` would prepare, for engines without rings."""
    hosts, program = state.hosts, state.program
    if _waits_for_turn(state.network.rules[0]):
        for index in range(state.network.totals[0].flows):
            flow = hosts.flows[index]
            _prepare(state, flow, index, program.src_host[flow.task], program.dst_host[flow.task], 0, 0)


@compiled
def _waits_for_turn(rules: Record) -> bool:
    """Whether flows of one instant are prepared in the order of their turns.

    Of two messages of a queue pair that are released together, the later in its host's ring is the latest.
    """
    return bool(rules.staggered or rules.keeps)


@compiled
def _turn(rules: Record, program: Program, flow: Record, turn: int) -> Whole:
    """Place of a flow among those its host releases together."""
    if rules.order == AS_GIVEN:
        return np.int64(turn)
    if rules.order == ROTATED:
        return (program.dst_host[flow.task] - program.src_host[flow.task]) % rules.hosts
    return np.int64(draw(rules.order_draws, flow.key, 0) ^ _SIGN)


@compiled
def _prepare(state: State, flow: Record, index: int, src: int, dst: int, now: int, start_ps: int) -> None:
    """Fills in the rest of a flow's record."""
    network, routing = state.network, state.routing
    rules, totals = network.rules[0], network.totals[0]
    flow.packets = (flow.bytes + rules.payload - 1) // rules.payload
    flow.last_wire = flow.bytes - (flow.packets - 1) * rules.payload + rules.header
    flow.left = flow.packets
    flow.start_ps = flow.end_ps = now
    flow.highest = flow.complained = flow.wake_ps = flow.oldest = flow.newest = -1
    flow.flowlet_path = flow.chosen = flow.next_in_ring = -1
    flow.notified_ps = _LONG_AGO
    flow.window = UNLIMITED
    flow.traffic_class = state.program.traffic_class[flow.task]
    flow.source, flow.leaf = src, routing.leaf[dst]
    flow.pair = routing.pair[routing.leaf[src] * rules.leaves + flow.leaf]
    flow.first_way = routing.way_begin[flow.pair]
    if src == dst:
        flow.links = flow.even = flow.alike = 1
        flow.up = flow.down = flow.back = routing.inside[src]
        return
    flow.even = flow.alike = routing.alike[flow.pair]
    flow.links = 2 + routing.way_length[flow.first_way]
    flow.up = flow.back = routing.up[src]
    flow.down = routing.down[dst]
    flow.listens = rules.listens
    if flow.listens:
        flow.first_row = flow.arrival_row = totals.rows
        totals.rows += flow.packets
        _prepare_answers(state, flow, index, now, start_ps)
        if rules.keeps:
            _keep_state(state, flow, index)


@compiled
def _keep_state(state: State, flow: Record, index: int) -> None:
    """The flow goes on from where the latest flow of its queue pair stands, and becomes the latest."""
    program = state.program
    row = program.queue_pair[flow.task] + flow.id - flow.task * state.network.rules[0].places
    latest = program.latest[row]
    program.latest[row] = index
    if latest >= 0:
        go_on(state.network.rules[0], state.hosts, index, latest)


@compiled
def _prepare_answers(state: State, flow: Record, index: int, now: int, start_ps: int) -> None:
    """Fills in the path of the flow's acknowledgements and its congestion control."""
    network, routing = state.network, state.routing
    rules, links, kinds = network.rules[0], network.links, network.kinds
    up, down = links[flow.up], links[flow.down]
    first, last = links[down.reverse], links[up.reverse]
    epoch = len(routing.epoch_ps) - 1
    while routing.epoch_ps[epoch] > now:
        epoch -= 1
    way = flow.first_way + routing.usable[routing.usable_begin[flow.pair * rules.epochs + epoch]]
    flow.links = 2 + routing.way_length[way]
    flow.answer_ps = _passage_ps(kinds[first.kind]) + _passage_ps(kinds[last.kind])
    if flow.alike:
        flow.answer_ps += routing.way_answer_ps[way]
    varies = up.varies or down.varies or first.varies or last.varies or not routing.calm[flow.pair]
    takes_part = rules.answers_take_time or rules.congestion == ASKED
    stops = rules.ends_early or rules.answers_queue or rules.trims or rules.marks_leaving
    flow.express = not (varies or takes_part or stops)
    round_trip_ps = _there_and_back_ps(kinds[up.kind]) + _there_and_back_ps(kinds[down.kind])
    slowest_ps = max(kinds[up.kind].full_ps, kinds[down.kind].full_ps)
    for hop in range(routing.way_length[way]):
        kind = kinds[links[routing.way_links[way, hop]].kind]
        round_trip_ps += _there_and_back_ps(kind)
        slowest_ps = max(slowest_ps, kind.full_ps)
    packets = (round_trip_ps + slowest_ps - 1) // slowest_ps
    start(rules, state.hosts, index, round_trip_ps, packets, kinds[up.kind].rate_bps, start_ps)


@compiled
def _passage_ps(kind: Record) -> Whole:
    """How long an answer takes over a link of a kind."""
    return kind.answer_ps + kind.delay_ps


@compiled
def _there_and_back_ps(kind: Record) -> Whole:
    """How long a full packet takes over a link of a kind, and its answer back."""
    return kind.full_ps + kind.delay_ps + _passage_ps(kind)
