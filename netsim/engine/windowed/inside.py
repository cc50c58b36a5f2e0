"""Links inside hosts, whose flows take turns and meet nothing else: what comes before the end of a flow goes in one go.

All packets before the last one of a flow are full, so that they leave one service time apart. Until another flow joins,
only the last packet of a flow matters to anybody else: the calendar has that one.
"""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Queued, State, Whole


@compiled
def first_end_ps(state: State, queued: Queued | None, place: int) -> Whole:
    """When a ring that looks for a packet sends the first one that ends a flow; when it looks if that is unknown."""
    ring = state.hosts.rings[place]
    if not _is_steady(state, queued, place):
        return np.int64(ring.look_ps)
    network = state.network
    return ring.look_ps + _before_end(state, place)[0] * network.kinds[network.links[place].kind].full_ps


@compiled
def send_before(state: State, queued: Queued | None, link: int, until_ps: int) -> None:
    """Sends the packets of a link inside a host that leave before a moment, up to the first one that ends a flow."""
    ring = state.hosts.rings[link]
    if ring.look_ps < 0 or ring.look_ps >= until_ps or not _is_steady(state, queued, link):
        return
    network = state.network
    rules, totals, inner = network.rules[0], network.totals[0], network.links[link]
    service_ps = network.kinds[inner.kind].full_ps
    most, flows = _before_end(state, link)
    packets = min(most, (until_ps - ring.look_ps + service_ps - 1) // service_ps)
    if packets:
        _count_off(state, link, packets, flows)
        ring.look_ps += packets * service_ps
        inner.free_ps = ring.look_ps
        inner.bytes += packets * rules.full_wire
        inner.busy_ps += packets * service_ps
        inner.longest_ps = max(inner.longest_ps, service_ps)
        totals.packets += packets
        totals.hops += packets


@compiled
def _is_steady(state: State, queued: Queued | None, link: int) -> bool:
    """Whether a link is one inside a host, free when it looks, and nothing but its flows decides what it does."""
    if queued is not None:
        return False
    network = state.network
    rules, inner = network.rules[0], network.links[link]
    if inner.reverse != link or inner.varies or rules.epochs > 1 or rules.ends_early or len(network.carried):
        return False
    return state.hosts.rings[link].first >= 0 and inner.free_ps <= state.hosts.rings[link].look_ps


@compiled
def _before_end(state: State, link: int) -> tuple[Whole, Whole]:
    """How many packets a ring sends before the first one that ends a flow, and how many flows take turns until then."""
    flows, index = state.hosts.flows, np.int64(state.hosts.rings[link].first)
    if not state.network.rules[0].round_robin:
        return np.int64(flows[index].packets - flows[index].next - 1), np.int64(1)
    least, first, place = np.int64(flows[index].packets - flows[index].next - 1), np.int64(0), np.int64(0)
    while index >= 0:
        rest = np.int64(flows[index].packets - flows[index].next - 1)
        if rest < least:
            least, first = rest, place
        if not rest:
            return place, place + 1
        place += 1
        index = np.int64(flows[index].next_in_ring)
    return least * place + first, place


@compiled
def _count_off(state: State, link: int, packets: Whole, taking_turns: Whole) -> None:
    """Counts full packets of the flows that take turns, each of which has more, and moves on whose turn it is."""
    flows, ring = state.hosts.flows, state.hosts.rings[link]
    rounds, extra = packets // taking_turns, packets % taking_turns
    index, turn, latest = np.int64(ring.first), np.int64(0), np.int64(-1)
    while turn < taking_turns and (rounds or turn < extra):
        flow = flows[index]
        sent = rounds + (turn < extra)
        flow.serial += sent
        flow.in_flight += sent
        flow.next += sent
        flow.sent = flow.next
        flow.left -= sent
        turn += 1
        if turn == extra:
            latest = index
        index = np.int64(flow.next_in_ring)
    if latest >= 0 and flows[latest].next_in_ring >= 0:
        flows[ring.last].next_in_ring = ring.first
        ring.first = flows[latest].next_in_ring
        flows[latest].next_in_ring = -1
        ring.last = latest
