"""The sending side of hosts' links in compiled code: flows take turns; see `netsim.engine.reference.nic`."""

import numpy as np

from netsim.engine.event.calendar import arrival_key, move_up, push, timer_key
from netsim.engine.event.choices import AT_FIRST_SWITCH, AT_SWITCH, PINNED, choose_path, epoch_of, is_usable
from netsim.engine.event.compiled import compiled
from netsim.engine.event.congestion import gap_ps
from netsim.engine.event.queued import first_ring, is_stopped, link_of, ring_of
from netsim.engine.event.recovery import take, timeout_ps
from netsim.engine.event.state import Hosts, Network, Queued, Record, State, Whole
from netsim.engine.event.transit import GONE, enter
from netsim.engine.event.turns import next_class, note_sent, rings_of, takes_turns

_NEVER = np.int64(-1)


@compiled
def is_open(flow: Record) -> bool:
    """Whether there is a packet to send, the window has room for it, and the flow is not given up."""
    pending = not flow.given_up and (flow.lost > 0 or flow.next < flow.packets)
    return pending and flow.in_flight < flow.window and not (flow.alone and flow.in_flight)


@compiled
def enter_ring(state: State, index: int, now: int) -> None:
    """Adds a flow to the end of its host's ring; the link looks for a packet as soon as it is free."""
    network, hosts = state.network, state.hosts
    flow = hosts.flows[index]
    place = ring_of(state.queued, network.rules[0], flow)
    ring = hosts.rings[place]
    flow.in_ring = 1
    flow.next_in_ring = -1
    if ring.first < 0:
        ring.first = index
    else:
        hosts.flows[ring.last].next_in_ring = index
    ring.last = index
    if ring.look_ps < 0 and not is_stopped(state.queued, place):
        ring.look_ps = max(now, network.links[flow.up].free_ps)


@compiled
def resume(state: State, index: int, now: int) -> None:
    """Resumes a flow that is outside its host's ring, as soon as its pace allows."""
    hosts = state.hosts
    flow = hosts.flows[index]
    if not flow.in_ring and is_open(flow):
        if now >= flow.next_ps:
            enter_ring(state, index, now)
        else:
            _keep_pace(hosts, flow, index)


@compiled
def await_progress(hosts: Hosts, flow: Record, index: int) -> None:
    """The flow's timer runs until its deadline."""
    flow.timer_runs = 1
    push(hosts.timers, flow.deadline_ps, timer_key(flow.id, 0), np.int64(index))


@compiled
def await_progress_sooner(network: Network, hosts: Hosts, flow: Record, index: int) -> None:
    """Moves the flow's timer, which runs, up to its deadline if that has become earlier; see `TOTALS.moves_up`."""
    if not move_up(hosts.timers, flow.deadline_ps, timer_key(flow.id, 0)):
        network.totals[0].moves_up = index


@compiled
def look(state: State, place: int, packet: Record, now: int) -> tuple[Whole, Whole]:
    """Sends the next packet of a ring of a host's link in an unused record, and notes when the ring looks again.

    Returns:
        A flow that needs another path first, or -1; when the packet arrives at its next event, see `enter`.
    """
    network, hosts, routing = state.network, state.hosts, state.routing
    ring, rules = hosts.rings[place], network.rules[0]
    link = link_of(state.queued, rules, place)
    if is_stopped(state.queued, place):
        ring.look_ps = -1
        return _NEVER, GONE
    if network.links[link].free_ps > now:
        ring.look_ps = network.links[link].free_ps
        return _NEVER, GONE
    if not _has_flow(hosts, ring, now):
        ring.look_ps = -1
        return _NEVER, GONE
    if not _has_turn(state, state.queued, link, place, now):
        ring.look_ps = now + 1
        return _NEVER, GONE
    index = ring.first
    flow = hosts.flows[index]
    epoch = epoch_of(routing, now) if rules.epochs > 1 else 0
    if rules.choice == PINNED and rules.epochs > 1:
        row = flow.pair * rules.epochs + epoch
        if not is_usable(routing, routing.usable_begin[row], routing.usable_begin[row + 1], flow.path):
            return np.int64(index), GONE
    arrives = _send(state, ring, flow, index, epoch, packet, now)
    _note_turn(state.queued, link, place, packet.wire, ring.first >= 0)
    ring.look_ps = max(now, network.links[link].free_ps) if ring.first >= 0 else -1
    return _NEVER, arrives


@compiled
def _has_flow(hosts: Hosts, ring: Record, now: int) -> bool:
    """Whether a flow of a ring may send; flows before it leave the ring."""
    while ring.first >= 0 and not _is_ready(hosts.flows[ring.first], now):
        _leave_ring(hosts, ring)
    return ring.first >= 0


@compiled
def _has_turn(state: State, queued: Queued | None, link: int, place: int, now: int) -> bool:
    """Whether the ring of a class may send on a link that is free; see the reference engine's `_whose_turn`."""
    if queued is None:
        return True
    hosts, rules = state.hosts, state.network.rules[0]
    first = link * rules.classes
    if not takes_turns(queued, place - first):
        return True
    for number in range(rules.classes):
        ring = hosts.rings[first + number]
        sends = takes_turns(queued, number) and not queued.queues[first + number].stopped
        queued.needs[number] = rules.full_wire if sends and _has_flow(hosts, ring, now) else -1
    return first + next_class(queued, rings_of(queued, link)) == place


@compiled
def _note_turn(queued: Queued | None, link: int, place: int, size_bytes: int, more: bool) -> None:
    """Notes that the ring of a class has sent a packet."""
    if queued is not None:
        classes = len(queued.quanta)
        if classes:
            note_sent(queued, rings_of(queued, link), place - link * classes, size_bytes, more)


@compiled
def _send(state: State, ring: Record, flow: Record, index: int, epoch: int, packet: Record, now: int) -> Whole:
    """Sends a packet of the first flow of a ring, and moves the flow to its next place; see `look`."""
    network, hosts, routing = state.network, state.hosts, state.routing
    rules, totals = network.rules[0], network.totals[0]
    serial = flow.serial
    if rules.timeout_ps >= 0 and not flow.in_flight:
        flow.deadline_ps = now + timeout_ps(rules, flow)
    sequence = take(rules, flow, hosts)
    packet.key = arrival_key(flow.id, serial, 0)
    packet.sent_ps = now
    packet.flow = index
    packet.sequence = sequence
    wire = rules.full_wire if sequence + 1 < flow.packets else flow.last_wire
    packet.wire = wire
    packet.hop = packet.control = packet.passes = packet.trimmed = packet.marked = 0
    if rules.choice == PINNED:
        path = np.int64(flow.path)
    elif rules.choice == AT_SWITCH:
        path = _NEVER
        packet.node = flow.pair * rules.epochs + epoch
        packet.way = routing.node_way[packet.node]
    elif rules.choice == AT_FIRST_SWITCH:
        path = _NEVER
        packet.node = flow.pair * rules.epochs + epoch
        packet.way = flow.first_way + routing.usable[routing.usable_begin[packet.node]]
    else:
        path = choose_path(rules, hosts, routing, index, serial, now, epoch)
    if path >= 0:
        packet.way = flow.first_way + path
    packet.links = flow.links if flow.even else 2 + routing.way_length[packet.way]
    last = hosts.rings[first_ring(state.queued, rules, flow.up)]
    last.last_flow, last.last_path, last.last_wire, last.last_epoch = index, path, wire, epoch
    totals.packets += 1
    arrives = enter(state, packet, np.int64(flow.up), now)
    if flow.listens:
        flow.next_ps = now + gap_ps(rules, hosts, index, wire, now)
        if rules.timeout_ps >= 0 and not flow.timer_runs:
            await_progress(hosts, flow, index)
    if not _is_ready(flow, now):
        _leave_ring(hosts, ring)
        if flow.listens and is_open(flow):
            _keep_pace(hosts, flow, index)
    elif rules.round_robin and ring.last != index:
        ring.first = flow.next_in_ring
        flow.next_in_ring = -1
        hosts.flows[ring.last].next_in_ring = index
        ring.last = index
    return arrives


@compiled
def _is_ready(flow: Record, now: int) -> bool:
    return now >= flow.next_ps and is_open(flow)


@compiled
def _leave_ring(hosts: Hosts, ring: Record) -> None:
    """The first flow of a ring leaves it."""
    flow = hosts.flows[ring.first]
    flow.in_ring = 0
    ring.first = flow.next_in_ring
    if ring.first < 0:
        ring.last = -1


@compiled
def _keep_pace(hosts: Hosts, flow: Record, index: int) -> None:
    """Wakes an open flow that only its pace holds back."""
    if flow.wake_ps != flow.next_ps:
        flow.wake_ps = flow.next_ps
        push(hosts.timers, flow.next_ps, timer_key(flow.id, 1), np.int64(index))
