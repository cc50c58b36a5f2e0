"""Links of the event engine: packets that join their queues."""

import numpy as np

from netsim.engine.compiled.draws import draw
from netsim.engine.compiled.service import service_ps
from netsim.engine.event.calendar import FLOW_BITS, SERIAL_BITS
from netsim.engine.event.compiled import compiled
from netsim.engine.event.errors import FAULTLESS, repeats
from netsim.engine.event.keys import flow_key
from netsim.engine.event.rates import begin_service, next_down, rate_at, work_ps
from netsim.engine.event.state import Array, Network, Record, Whole
from netsim.engine.queue_series import INTERVALS

GOES, LOST, TRIMMED, WAITS = range(4)
"""Fates of a packet that arrives at a link; only links with queues let it wait without saying how long."""

_LINK_BITS = 20


@compiled
def serial_of(packet: Record) -> Whole:
    """Serial of a packet: the number of its transmission within the flow."""
    return (packet.key >> 1) & ((1 << SERIAL_BITS) - 1)


@compiled
def flow_id_of(packet: Record) -> Whole:
    """Id of a packet's flow."""
    return (packet.key >> (SERIAL_BITS + 1)) & ((1 << FLOW_BITS) - 1)


@compiled
def join(network: Network, packet: Record, index: int, now: int) -> tuple[Whole, Whole]:
    """Adds a packet to the queue of a link. Returns its fate, and when its last bit leaves."""
    rules, totals, link = network.rules[0], network.totals[0], network.links[index]
    kind = network.kinds[link.kind]
    start = max(link.free_ps, now)
    rate = kind.rate_bps
    if link.varies:
        rate = rate_at(network, index, start)
        down = next_down(network, index, now)
        service = service_ps(packet.wire, rate) if rate else np.int64(0)
        if not rate or down < start + service or down <= start:
            if not link.at_switch:
                link.free_ps = start + service_ps(packet.wire, kind.rate_bps)
            totals.dropped += 1
            return LOST, now
    else:
        service = service_of(rules, link, kind, packet.wire, rate)
    leaves = start + service
    again = np.int64(0)
    if link.at_switch:
        room = kind.room_ps if not link.varies or rules.room_bytes < 0 else service_ps(rules.room_bytes, rate)
        if leaves - now > room:
            if rules.trims and not packet.control:
                totals.trimmed += 1
                return TRIMMED, now
            totals.dropped += 1
            return LOST, now
        may_mark = rules.marks and not rules.marks_leaving and not packet.control and not packet.marked
        if may_mark and marks(network, link, kind, index, packet, start - now, rate):
            packet.marked = 1
            totals.marked += 1
    if rules.errors != FAULTLESS:
        key = flow_key(network, flow_id_of(packet))
        again = repeats(rules, kind, index, key, serial_of(packet), np.int64(packet.control))
        if again > 0:
            service += again * (service + kind.round_trip_ps)
            leaves = start + service
    link.free_ps = leaves
    work = leaves - now
    if link.varies:
        begin_service(network, index, start)
        work = work_ps(network, index, now, leaves)
    count(network, link, packet, service, leaves - now, work, now)
    if again < 0:
        totals.dropped += 1
        return LOST, now
    return GOES, leaves


@compiled
def service_of(rules: Record, link: Record, kind: Record, wire: int, rate: int) -> Whole:
    """Service time of a packet at a rate."""
    if not link.varies:
        if wire == rules.full_wire:
            return kind.full_ps
        if wire == rules.answer_wire:
            return kind.answer_ps
    return service_ps(wire, rate)


@compiled
def count(network: Network, link: Record, packet: Record, service: int, queue: int, work: int, came: int) -> None:
    """Records that a link carries a packet, and the queue that the packet joined when it came."""
    totals = network.totals[0]
    if link.at_switch:
        _note_queue(network.longest, totals, came, queue)
    link.busy_ps += service
    link.bytes += packet.wire
    link.longest_ps = max(link.longest_ps, work)
    if packet.control:
        totals.control_hops += 1
    else:
        totals.hops += 1


@compiled
def cross(network: Network, packet: Record, index: int, now: int) -> tuple[Whole, Whole]:
    """Sends a packet of the control lane over a link: see `netsim.congestion.flow_control`."""
    rules, totals, link = network.rules[0], network.totals[0], network.links[index]
    if link.varies:
        rate = rate_at(network, index, now)
        service = service_ps(packet.wire, rate) if rate else np.int64(0)
        if not rate or next_down(network, index, now) < now + service:
            totals.dropped += 1
            return LOST, now
    else:
        service = service_ps(packet.wire, network.kinds[link.kind].rate_bps)
    leaves = now + service
    if rules.answers_take_time:
        link.lane_free_ps = leaves = max(link.lane_free_ps, now) + service
        link.free_ps = max(link.free_ps, now) + service
        link.busy_ps += service
    link.bytes += packet.wire
    totals.control_hops += 1
    return GOES, leaves


@compiled
def marks(network: Network, link: Record, kind: Record, index: int, packet: Record, backlog: int, rate: int) -> bool:
    """See `netsim.engine.reference.conditions.Conditions.marks`."""
    rules = network.rules[0]
    low, high = kind.mark_ps, kind.mark_all_ps
    if link.varies:
        low, high = service_ps(rules.mark_above, rate), service_ps(rules.mark_all_above, rate)
    if backlog <= low:
        return False
    if backlog > high:
        return True
    chance = rules.mark_at_most * ((backlog - low) / (high - low))
    key = flow_key(network, flow_id_of(packet))
    drawn = draw(rules.mark_draws, key, (serial_of(packet) << _LINK_BITS) | index)
    return np.float64(drawn >> np.uint64(11)) * 2.0**-53 < chance


@compiled
def _note_queue(longest: Array, totals: Record, now: int, queue: int) -> None:
    """See `netsim.engine.queue_series.QueueRecorder.add`."""
    interval = now >> totals.width_bits
    while interval >= INTERVALS:
        for pair in range(INTERVALS // 2):
            longest[pair] = max(longest[2 * pair], longest[2 * pair + 1])
        for interval_behind in range(INTERVALS // 2, INTERVALS):
            longest[interval_behind] = 0
        totals.width_bits += 1
        totals.used = (totals.used + 1) // 2
        interval >>= 1
    longest[interval] = max(longest[interval], queue)
    totals.used = max(totals.used, interval + 1)
