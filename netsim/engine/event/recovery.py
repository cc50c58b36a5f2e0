"""Loss recovery of a flow in compiled code: see `netsim.congestion.recovery`.

Packets under way are a list in the order of their transmissions, through the records of `Hosts.sent`.
"""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Hosts, Record, Whole

NOTHING_LOST, SELECTIVE, GO_BACK_N = range(3)
"""Kinds. Under the first one nothing is sent twice, so no state is kept for single packets."""

ACCEPTED, ACKNOWLEDGE, REFUSE = 1, 2, 4
"""Bits of a receiver's answer to a packet."""

_ACKED, _LOST, _UNDER_WAY = (np.uint8(1 << bit) for bit in range(3))
_ALL = np.int64(2**62)


@compiled
def timeout_ps(rules: Record, flow: Record) -> Whole:
    """See `netsim.congestion.timeout.Timeout.lasts_ps`."""
    base = max(rules.timeout_ps, (flow.smoothed_8 >> 3) + flow.deviation_4)
    if not flow.fruitless:
        return base
    lasts, doublings = base, flow.fruitless
    while doublings and lasts < rules.longest_timeout_ps:
        lasts, doublings = 2 * lasts, doublings - 1
    return max(base, min(lasts, rules.longest_timeout_ps))


@compiled
def measure(rules: Record, flow: Record, round_trip_ps: int) -> None:
    """See `netsim.congestion.timeout.Timeout.measure`."""
    if not rules.estimates:
        return
    if not flow.smoothed_8:
        flow.smoothed_8, flow.deviation_4 = 8 * round_trip_ps, 2 * round_trip_ps
        return
    difference = round_trip_ps - (flow.smoothed_8 >> 3)
    flow.smoothed_8 += difference
    flow.deviation_4 += abs(difference) - (flow.deviation_4 >> 2)


@compiled
def take(rules: Record, flow: Record, hosts: Hosts) -> Whole:
    """The packet to send as the flow's next transmission; counts the transmission."""
    serial = flow.serial
    flow.serial = serial + 1
    flow.in_flight += 1
    if flow.lost:
        sequence = _first_lost(flow, hosts)
    else:
        sequence = flow.next
        flow.next = sequence + 1
    if rules.recovery == SELECTIVE and flow.listens:
        sent = hosts.sent[flow.first_row + sequence]
        sent.bits |= _UNDER_WAY
        sent.last_serial, sent.older, sent.newer = serial, flow.newest, -1
        if flow.newest >= 0:
            hosts.sent[flow.first_row + flow.newest].newer = sequence
        else:
            flow.oldest = sequence
        flow.newest = sequence
    if sequence < flow.sent:
        flow.retransmitted += 1
    else:
        flow.sent = sequence + 1
    return sequence


@compiled
def acknowledged(rules: Record, flow: Record, hosts: Hosts, sequence: int, serial: int, expected: int) -> Whole:
    """An acknowledgement has arrived; returns the number of packets newly acknowledged."""
    if rules.recovery == NOTHING_LOST:
        flow.in_flight -= 1
        return np.int64(1)
    if rules.recovery == GO_BACK_N:
        return _acknowledged_before(flow, expected)
    sent = hosts.sent[flow.first_row + sequence]
    if sent.bits & _UNDER_WAY and sent.last_serial == serial:
        _land(flow, hosts, sent)
    newly = np.int64(0) if sent.bits & _ACKED else np.int64(1)
    sent.bits |= _ACKED
    if sent.bits & _LOST:
        sent.bits &= ~_LOST
        flow.lost -= 1
    if rules.reordering >= 0:
        _lose_before(flow, hosts, serial - rules.reordering)
    return newly


@compiled
def refused(rules: Record, flow: Record, hosts: Hosts, sequence: int, serial: int, expected: int) -> Whole:
    """A negative acknowledgement has arrived; returns the number of packets newly acknowledged."""
    if rules.recovery == GO_BACK_N:
        old = expected < flow.acked
        newly = _acknowledged_before(flow, expected)
        if not old:
            flow.next = flow.acked
            flow.in_flight = 0
        return newly
    sent = hosts.sent[flow.first_row + sequence]
    if sent.bits & _UNDER_WAY and sent.last_serial == serial:
        _land(flow, hosts, sent)
        _lose(flow, sent, sequence)
    return np.int64(0)


@compiled
def timed_out(rules: Record, flow: Record, hosts: Hosts) -> None:
    """The timeout has passed without progress."""
    if rules.recovery == GO_BACK_N:
        flow.next = flow.acked
        flow.in_flight = 0
        flow.alone = 1
    else:
        _lose_before(flow, hosts, _ALL)


@compiled
def received(rules: Record, flow: Record, hosts: Hosts, sequence: int) -> Whole:
    """A packet has arrived at the receiver; returns the bits of its answer."""
    if rules.recovery == NOTHING_LOST:
        return ACCEPTED | ACKNOWLEDGE
    if rules.recovery == SELECTIVE:
        row = flow.arrival_row + sequence
        seen, hosts.arrived[row] = hosts.arrived[row], 1
        return ACKNOWLEDGE if seen else ACCEPTED | ACKNOWLEDGE
    if sequence == flow.expected:
        flow.expected += 1
        return ACCEPTED | ACKNOWLEDGE
    if sequence < flow.expected:
        return ACKNOWLEDGE
    if flow.complained == flow.expected:
        return 0
    flow.complained = flow.expected
    return REFUSE


@compiled
def _acknowledged_before(flow: Record, expected: int) -> Whole:
    """Go-back-N: everything before `expected` has arrived."""
    newly = max(np.int64(0), expected - flow.acked)
    flow.acked += newly
    flow.next = max(flow.next, flow.acked)
    flow.in_flight = flow.next - flow.acked
    if newly:
        flow.alone = 0
    return newly


@compiled
def _first_lost(flow: Record, hosts: Hosts) -> Whole:
    """Takes the first lost packet."""
    row = flow.first_row + flow.lost_from
    while not hosts.sent[row].bits & _LOST:
        row += 1
    hosts.sent[row].bits &= ~_LOST
    flow.lost -= 1
    flow.lost_from = row + 1 - flow.first_row
    return row - flow.first_row


@compiled
def _lose_before(flow: Record, hosts: Hosts, limit: int) -> None:
    """Transmissions with smaller serials count as lost."""
    while flow.oldest >= 0 and hosts.sent[flow.first_row + flow.oldest].last_serial < limit:
        sequence = np.int64(flow.oldest)
        sent = hosts.sent[flow.first_row + sequence]
        _land(flow, hosts, sent)
        _lose(flow, sent, sequence)


@compiled
def _lose(flow: Record, sent: Record, sequence: int) -> None:
    if not sent.bits & (_ACKED | _LOST):
        sent.bits |= _LOST
        flow.lost += 1
        flow.lost_from = min(flow.lost_from, sequence) if flow.lost > 1 else sequence


@compiled
def _land(flow: Record, hosts: Hosts, sent: Record) -> None:
    """A packet is no longer under way."""
    older, newer = sent.older, sent.newer
    if older >= 0:
        hosts.sent[flow.first_row + older].newer = newer
    else:
        flow.oldest = newer
    if newer >= 0:
        hosts.sent[flow.first_row + newer].older = older
    else:
        flow.newest = older
    sent.bits &= ~_UNDER_WAY
    flow.in_flight -= 1
