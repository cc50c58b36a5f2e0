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
def start(rules: Record, flow: Record, initial: int, packets: int) -> None:
    """Sets the state at the start of a flow; see `netsim.engine.event.congestion.start`."""
    flow.credit = flow.unasked = initial
    most = rules.outstanding if rules.outstanding >= 0 else (3 * packets + 1) // 2
    flow.ahead = max(np.int64(0), most - initial)
    _show(flow)


@compiled
def spend(flow: Record) -> None:
    """The packet that leaves costs a credit."""
    flow.credit -= 1
    flow.under_way += 1
    _show(flow)


@compiled
def on_ack(flow: Record) -> None:
    """Takes back the credit of packets that the acknowledgement shows to be lost."""
    flow.credit += max(np.int64(0), flow.under_way - flow.in_flight - 1)
    flow.under_way = flow.in_flight
    _show(flow)


@compiled
def on_timeout(flow: Record) -> None:
    """All under way counts as lost, and one packet may always go."""
    flow.credit = max(np.int64(1), flow.credit + flow.under_way)
    flow.under_way = 0
    _show(flow)


@compiled
def on_credit(flow: Record, granted: int) -> None:
    """A credit has arrived at the sender."""
    if granted > flow.known:
        flow.credit += granted - flow.known
        flow.known = granted
        _show(flow)


@compiled
def is_starved(flow: Record) -> bool:
    """Whether there is a packet to send, and no credit for it."""
    return not flow.window and not flow.given_up and (flow.lost > 0 or flow.next < flow.packets)


@compiled
def note(hosts: Hosts, packet: Record, flow: Record, now: int) -> None:
    """A packet or its header has arrived at its receiver."""
    flow.arrived += 1
    if packet.trimmed:
        flow.trims += 1
    flow.back_way = packet.way
    if not flow.waits and _owed(flow) > 0:
        pacer = hosts.pacers[flow.down]
        _wait(hosts, pacer, np.int64(packet.flow))
        if not pacer.runs:
            pacer.runs = 1
            push(hosts.timers, max(now, pacer.next_ps), pull_key(flow.down), np.int64(flow.down))


@compiled
def pull(state: State, link: int, packet: Record, now: int) -> None:
    """Asks the next flow of the receiver behind a link for packets, and waits as long as they take at the pace.

    Args:
        state: State of the engine.
        link: The link.
        packet: An unused record, which becomes the credit.
        now: Current time.
    """
    rules, hosts = state.network.rules[0], state.hosts
    pacer = hosts.pacers[link]
    index = np.int64(pacer.first)
    flow = hosts.flows[index]
    pacer.first = flow.next_waiting
    amount = max(np.int64(0), min(_owed(flow), rules.grant))
    flow.granted += amount
    flow.grants += 1
    flow.waits = 0
    if _owed(flow) > 0:
        _wait(hosts, pacer, index)
    pacer.next_ps = now + np.int64(amount * state.network.links[link].full_ps / rules.pace)
    pacer.runs = pacer.first >= 0
    if pacer.runs:
        push(hosts.timers, pacer.next_ps, pull_key(link), link)
    packet.key = arrival_key(flow.id, FIRST_GRANT + flow.grants, 1)
    packet.sent_ps = now
    packet.flow, packet.way, packet.links = index, flow.back_way, flow.links
    packet.hop = packet.trimmed = packet.marked = packet.notified = 0
    packet.control, packet.passes = 1, not rules.answers_queue
    packet.wire = rules.answer_wire
    packet.refusal, packet.expected = CREDIT, flow.granted


@compiled
def _owed(flow: Record) -> Whole:
    """Packets to ask for: what is still to be sent and has not arrived, but no more than may be expected at once."""
    to_send = flow.packets + flow.trims - flow.unasked - flow.granted
    return min(min(to_send, flow.left), flow.ahead + flow.arrived - flow.granted)


@compiled
def _wait(hosts: Hosts, pacer: Record, index: int) -> None:
    """A flow waits for its turn to be asked."""
    flow = hosts.flows[index]
    flow.waits = 1
    flow.next_waiting = -1
    if pacer.first < 0:
        pacer.first = index
    else:
        hosts.flows[pacer.last].next_waiting = index
    pacer.last = index


@compiled
def _show(flow: Record) -> None:
    """Keeps the window, which the sender looks at, up to date."""
    flow.window = np.int64(UNLIMITED) if flow.credit > 0 else np.int64(0)
