"""Receivers that ask for packets, in compiled code: see `netsim.engine.reference.credit`."""

import numpy as np

from netsim.congestion.protocol import UNLIMITED
from netsim.engine.event.calendar import arrival_key, pull_key, push
from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Hosts, Record, State, Whole
from netsim.engine.reference.credit import FIRST_GRANT

CREDIT = 2
"""Value of a control packet's `refusal` if it is a credit; `expected` is then the packets asked for so far."""


@compiled
def start(rules: Record, flow: Record, own: Record, initial: int, packets: int) -> None:
    """Sets the state at the start of a flow; see `netsim.engine.event.congestion.start`."""
    own.credit = own.unasked = initial
    most = rules.outstanding if rules.outstanding >= 0 else (3 * packets + 1) // 2
    own.ahead = max(np.int64(0), most - initial)
    _show(flow, own)


@compiled
def spend(flow: Record, own: Record) -> None:
    """The packet that leaves costs a credit."""
    own.credit -= 1
    own.under_way += 1
    _show(flow, own)


@compiled
def on_ack(flow: Record, own: Record) -> None:
    """Takes back the credit of packets that the acknowledgement shows to be lost."""
    own.credit += max(np.int64(0), own.under_way - flow.in_flight - 1)
    own.under_way = flow.in_flight
    _show(flow, own)


@compiled
def on_timeout(flow: Record, own: Record) -> None:
    """All under way counts as lost, and one packet may always go."""
    own.credit = max(np.int64(1), own.credit + own.under_way)
    own.under_way = 0
    _show(flow, own)


@compiled
def on_credit(flow: Record, own: Record, granted: int) -> None:
    """A credit has arrived at the sender."""
    if granted > own.known:
        own.credit += granted - own.known
        own.known = granted
        _show(flow, own)


@compiled
def is_starved(flow: Record) -> bool:
    """Whether there is a packet to send, and no credit for it."""
    return not flow.window and not flow.given_up and (flow.lost > 0 or flow.next < flow.packets)


@compiled
def note(hosts: Hosts, packet: Record, flow: Record, now: int) -> None:
    """A packet or its header, now its answer, has arrived at its receiver; see `transit.receive`."""
    own = hosts.asked[packet.flow]
    own.left = packet.node
    own.arrived += 1
    if packet.trimmed:
        own.trims += 1
    own.back_way = packet.way
    if not own.waits and _owed(flow, own) > 0:
        pacer = hosts.pacers[flow.down]
        _wait(hosts, pacer, np.int64(packet.flow))
        if not pacer.runs:
            pacer.runs = 1
            push(hosts.timers, max(now, pacer.next_ps), pull_key(flow.down), np.int64(flow.down))


@compiled
def pull(state: State, link: int, packet: Record, now: int) -> None:
    """Asks the next flow of the receiver behind a link for packets, and waits as long as they take at the pace.

    `packet` is an unused record, which becomes the credit.
    """
    rules, hosts = state.network.rules[0], state.hosts
    pacer = hosts.pacers[link]
    index = np.int64(pacer.first)
    flow, own = hosts.flows[index], hosts.asked[index]
    pacer.first = own.next_waiting
    amount = max(np.int64(0), min(_owed(flow, own), rules.grant))
    own.granted += amount
    own.grants += 1
    own.waits = 0
    if _owed(flow, own) > 0:
        _wait(hosts, pacer, index)
    pacer.next_ps = now + np.int64(amount * state.network.kinds[state.network.links[link].kind].full_ps / rules.pace)
    pacer.runs = pacer.first >= 0
    if pacer.runs:
        push(hosts.timers, pacer.next_ps, pull_key(link), link)
    packet.key = arrival_key(flow.id, FIRST_GRANT + own.grants, 1)
    packet.sent_ps = now
    packet.flow, packet.way, packet.links = index, own.back_way, 2 + state.routing.way_length[own.back_way]
    packet.hop = packet.trimmed = packet.marked = packet.notified = 0
    packet.control, packet.passes = 1, not rules.answers_queue
    packet.wire = rules.answer_wire
    packet.refusal, packet.expected = CREDIT, own.granted


@compiled
def _owed(flow: Record, own: Record) -> Whole:
    """Packets to ask for: what is still to be sent and has not arrived, but no more than may be expected at once."""
    to_send = flow.packets + own.trims - own.unasked - own.granted
    return min(min(to_send, own.left), own.ahead + own.arrived - own.granted)


@compiled
def _wait(hosts: Hosts, pacer: Record, index: int) -> None:
    """A flow waits for its turn to be asked."""
    own = hosts.asked[index]
    own.waits = 1
    own.next_waiting = -1
    if pacer.first < 0:
        pacer.first = index
    else:
        hosts.asked[pacer.last].next_waiting = index
    pacer.last = index


@compiled
def _show(flow: Record, own: Record) -> None:
    """Keeps the window, which the sender looks at, up to date."""
    flow.window = np.int64(UNLIMITED) if own.credit > 0 else np.int64(0)
