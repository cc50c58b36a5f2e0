"""Passage of packets and acknowledgements from link to link, in compiled code."""

import numpy as np

from netsim.engine.event.choices import AT_SWITCH
from netsim.engine.event.compiled import compiled
from netsim.engine.event.program import delivered
from netsim.engine.event.queues import LOST, TRIMMED, WAITS, cross, join, send_across, send_on, serial_of
from netsim.engine.event.queued import stand
from netsim.engine.event.recovery import ACCEPTED, ACKNOWLEDGE, REFUSE, received
from netsim.engine.event.state import Network, Queued, Record, Routing, State, Whole
from netsim.engine.event.switches import choose_next


@compiled
def enter(state: State, index: int, link: int, came: int, now: int) -> None:
    """Passes a packet, which came from a link, over another, unless it is lost or waits."""
    network = state.network
    packet = network.packets[index]
    flow = state.hosts.flows[packet.flow]
    if packet.passes:
        fate, leaves = cross(network, packet, link, now)
    else:
        fate, leaves = _queue_up(state, state.queued, index, packet, flow, link, came, now)
        if fate == TRIMMED:
            packet.trimmed = packet.passes = 1
            packet.wire = network.rules[0].trimmed_wire
            fate, leaves = cross(network, packet, link, now)
    if fate == WAITS:
        return
    if fate == LOST:
        drop(network, index)
        return
    forward(state, index, packet, flow, link, leaves)


@compiled
def _queue_up(
    state: State, queued: Queued | None, index: int, packet: Record, flow: Record, link: int, came: int, now: int
) -> tuple[Whole, Whole]:
    """Adds a packet to the queue in front of a link."""
    if queued is None:
        return join(state.network, packet, flow.id, link, now)
    return stand(state.network, state.routing, queued, index, flow, link, came, now)


@compiled
def forward(state: State, index: int, packet: Record, flow: Record, link: int, leaves: int) -> None:
    """Schedules the next arrival of a packet whose last bit leaves a link at `leaves`."""
    network = state.network
    arrives = leaves + network.links[link].delay_ps
    packet.hop += 1
    if packet.passes:
        send_across(network, index, 2 * link + 1, arrives)
    elif packet.hop < flow.links or packet.control or (flow.listens and not flow.express):
        send_on(network, index, 2 * link, arrives)
    elif flow.listens:
        if receive(state, packet, flow, arrives):
            _return_at_once(state, index, packet, flow, link, arrives)
        else:
            drop(network, index)
    else:
        _note_order(flow, packet)
        flow.left -= 1
        flow.end_ps = max(flow.end_ps, arrives)
        if not flow.left:
            delivered(state.program, flow.task, flow.end_ps)
        drop(network, index)


@compiled
def drop(network: Network, index: int) -> None:
    """Frees the record of a packet."""
    totals = network.totals[0]
    network.packets[index].next = totals.free_packet
    totals.free_packet = index


@compiled
def receive(state: State, packet: Record, flow: Record, now: int) -> bool:
    """Turns a packet at its receiver into its acknowledgement; returns whether there is one."""
    rules = state.network.rules[0]
    packet.refusal, packet.expected = 1, 0
    if not packet.trimmed:
        _note_order(flow, packet)
        verdict = received(rules, flow, state.hosts, packet.sequence)
        if verdict & ACCEPTED:
            flow.left -= 1
            if not flow.left:
                flow.end_ps = now
                delivered(state.program, flow.task, now)
        if not verdict & (ACKNOWLEDGE | REFUSE):
            return False
        packet.refusal, packet.expected = (verdict & REFUSE) != 0, flow.expected
    packet.key |= 1
    packet.control, packet.passes = 1, not rules.answers_queue
    packet.hop = 0
    packet.wire = rules.answer_wire
    packet.notified = 0
    packet.marked |= packet.trimmed
    if rules.notify_ps >= 0 and packet.marked and now - flow.notified_ps >= rules.notify_ps:
        flow.notified_ps = now
        packet.notified = 1
    return True


@compiled
def next_link(state: State, packet: Record, flow: Record, now: int) -> Whole:
    """The next link of a packet."""
    network, routing = state.network, state.routing
    if packet.control:
        return np.int64(network.links[_link(routing, packet, flow, flow.links - 1 - packet.hop)].reverse)
    if network.rules[0].choice == AT_SWITCH and packet.hop < flow.links - 1:
        row = choose_next(network, state.hosts, routing, state.queued, packet.flow, packet, serial_of(packet), now)
        packet.node = routing.child_node[row]
        packet.way = routing.node_way[packet.node]
        return routing.child_link[row]
    return _link(routing, packet, flow, np.int64(packet.hop))


@compiled
def _link(routing: Routing, packet: Record, flow: Record, hop: int) -> Whole:
    """A link of a packet's path."""
    if hop == 0:
        return np.int64(flow.up)
    if hop == flow.links - 1:
        return np.int64(flow.down)
    return routing.way_links[packet.way, hop - 1]


@compiled
def _note_order(flow: Record, packet: Record) -> None:
    if packet.sequence < flow.highest:
        flow.reordered += 1
    else:
        flow.highest = packet.sequence


@compiled
def _return_at_once(state: State, index: int, packet: Record, flow: Record, link: int, now: int) -> None:
    """Returns an acknowledgement that nothing can stop or delay: its links are counted, and none needs an event."""
    routing = state.routing
    arrives = now + flow.answer_ps
    if flow.links > 2:
        arrives += routing.way_answer_ps[packet.way]
        routing.way_answers[packet.way] += 1
    flow.answers += 1
    state.network.totals[0].control_hops += flow.links
    packet.hop = flow.links
    send_across(state.network, index, 2 * link + 1, arrives)
