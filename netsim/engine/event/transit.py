"""Passage of packets and acknowledgements from link to link, in compiled code."""

import numpy as np

from netsim.engine.event.choices import AT_FIRST_SWITCH, AT_SWITCH
from netsim.engine.event.compiled import compiled
from netsim.engine.event.congestion import ASKED
from netsim.engine.event.detours import choose_way
from netsim.engine.event.program import delivered
from netsim.engine.event.queued import stand
from netsim.engine.event.queues import LOST, TRIMMED, WAITS, cross, join, serial_of
from netsim.engine.event.recovery import ACCEPTED, ACKNOWLEDGE, REFUSE, received
from netsim.engine.event.state import Network, Queued, Record, Routing, State, Whole
from netsim.engine.event.switches import choose_next
from netsim.engine.event.watching import note_carried

GONE = np.int64(-1)
"""The time of a packet's next event if it is lost, delivered or heard."""
HELD = np.int64(-2)
"""The time of a packet's next event if it waits in a queue."""


@compiled
def enter(state: State, packet: Record, link: int, now: int) -> Whole:
    """Passes a packet over a link; returns when it arrives at its next event, GONE if there is none, or HELD."""
    network = state.network
    if packet.passes:
        fate, leaves = cross(network, packet, link, now)
    else:
        fate, leaves = _queue_up(state, state.queued, packet, link, now)
        if fate == TRIMMED:
            forgiven = network.rules[0].forgives_last_link and packet.hop == packet.links - 1
            packet.trimmed = 2 if forgiven else 1
            packet.passes = 1
            packet.wire = network.rules[0].trimmed_wire
            fate, leaves = cross(network, packet, link, now)
    if fate == WAITS:
        return HELD
    return GONE if fate == LOST else forward(state, packet, link, leaves)


@compiled
def _queue_up(state: State, queued: Queued | None, packet: Record, link: int, now: int) -> tuple[Whole, Whole]:
    """Adds a packet to the queue in front of a link."""
    if queued is None:
        return join(state.network, packet, link, now)
    flow = state.hosts.flows[packet.flow]
    came = link_before(state, packet, flow)
    return stand(state.network, state.routing, queued, packet, flow.traffic_class, link, came, now)


@compiled
def link_before(state: State, packet: Record, flow: Record) -> Whole:
    """The link from which a packet has come to where it is, or -1 at its host."""
    if not packet.hop:
        return np.int64(-1)
    if packet.control:
        return np.int64(state.routing.reverse[_link(state.routing, packet, flow, packet.links - packet.hop)])
    return _link(state.routing, packet, flow, np.int64(packet.hop) - 1)


@compiled
def forward(state: State, packet: Record, link: int, leaves: int) -> Whole:
    """Forwards a packet whose last bit leaves a link at `leaves`; returns when its next event is, or GONE."""
    network = state.network
    arrives = leaves + network.kinds[network.links[link].kind].delay_ps
    packet.hop += 1
    _note_carried(network, state.queued, packet, link, leaves)
    if packet.passes or packet.control or packet.hop < packet.links:
        return arrives
    flow = state.hosts.flows[packet.flow]
    if flow.express:
        return _return_at_once(state, packet, flow, arrives) if receive(state, packet, flow, arrives) else GONE
    if network.rules[0].listens and packet.links > 1:
        return arrives
    _note_order(flow, packet)
    flow.left -= 1
    flow.end_ps = max(flow.end_ps, arrives)
    if not flow.left:
        delivered(state.program, flow.task, flow.end_ps)
    return GONE


@compiled
def _note_carried(network: Network, queued: Queued | None, packet: Record, link: int, leaves: int) -> None:
    """Notes what a link carries; links with queues do so when a transmission ends, see `queued.finish`."""
    if queued is not None and not packet.passes:
        return
    if not packet.control:
        note_carried(network, link, leaves, packet.wire)


@compiled
def receive(state: State, packet: Record, flow: Record, now: int) -> bool:
    """Turns a packet at its receiver into its acknowledgement; returns whether there is one."""
    rules = state.network.rules[0]
    packet.expected = 0
    verdict = np.int64(REFUSE)
    if not packet.trimmed:
        _note_order(flow, packet)
        verdict = np.int64(received(rules, flow, state.hosts, packet.sequence))
        if verdict & ACCEPTED:
            flow.left -= 1
            if not flow.left:
                flow.end_ps = now
                delivered(state.program, flow.task, now)
        packet.expected = flow.expected
    if rules.congestion == ASKED:
        packet.node = flow.left
    if not verdict & (ACKNOWLEDGE | REFUSE):
        return False
    packet.refusal = (verdict & REFUSE) != 0
    packet.key |= 1
    packet.control, packet.passes = 1, not rules.answers_queue
    packet.hop = 0
    packet.wire = rules.answer_wire
    packet.notified = 0
    if not packet.marked:
        packet.marked = packet.trimmed
    if rules.notify_ps >= 0 and packet.marked and now - flow.notified_ps >= rules.notify_ps:
        flow.notified_ps = now
        packet.notified = 1
    return True


@compiled
def next_link(state: State, packet: Record, now: int) -> Whole:
    """The next link of a packet."""
    network, routing = state.network, state.routing
    flow = state.hosts.flows[packet.flow]
    if packet.control:
        return planned_link(state, packet, flow)
    if network.rules[0].choice == AT_SWITCH and packet.hop < packet.links - 1:
        row = choose_next(network, state.hosts, routing, state.queued, packet.flow, packet, serial_of(packet), now)
        packet.node = routing.child_node[row]
        packet.way = routing.node_way[packet.node]
        packet.links = 2 + routing.way_length[packet.way]
        return routing.child_link[row]
    if network.rules[0].choice == AT_FIRST_SWITCH and packet.hop == 1 and packet.links > 2:
        packet.way = flow.first_way + choose_way(state, flow, packet, serial_of(packet), now)
        packet.links = 2 + routing.way_length[packet.way]
    return planned_link(state, packet, flow)


@compiled
def planned_link(state: State, packet: Record, flow: Record) -> Whole:
    """The next link of a packet on its way as it is so far."""
    if packet.control:
        return np.int64(state.routing.reverse[_link(state.routing, packet, flow, packet.links - 1 - packet.hop)])
    return _link(state.routing, packet, flow, np.int64(packet.hop))


@compiled
def _link(routing: Routing, packet: Record, flow: Record, hop: int) -> Whole:
    """A link of a packet's path."""
    if hop == 0:
        return np.int64(flow.up)
    if hop == packet.links - 1:
        return np.int64(flow.down)
    return routing.way_links[packet.way, hop - 1]


@compiled
def _note_order(flow: Record, packet: Record) -> None:
    if packet.sequence < flow.highest:
        flow.reordered += 1
    else:
        flow.highest = packet.sequence


@compiled
def _return_at_once(state: State, packet: Record, flow: Record, now: int) -> Whole:
    """Returns an acknowledgement that nothing can stop or delay: its links are counted, and none needs an event."""
    routing = state.routing
    arrives = now + flow.answer_ps
    if packet.links > 2:
        if not flow.alike:
            arrives += routing.way_answer_ps[packet.way]
        routing.way_answers[packet.way] += 1
    flow.answers += 1
    state.network.totals[0].control_hops += packet.links
    packet.hop = packet.links
    return arrives
