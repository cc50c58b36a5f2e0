"""Congestion control of a flow in compiled code: see `netsim.congestion`, whose arithmetic is repeated step by step."""

import math

import numpy as np

from netsim.congestion.protocol import UNLIMITED
from netsim.engine.event import credit, nscc
from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Hosts, Record, Whole
from netsim.units import PICOSECONDS_PER_SECOND

FIXED, DCTCP, SWIFT, DCQCN, NSCC, ASKED = range(6)
"""Kinds."""

_LONG_AGO = np.int64(-(2**62))
_SECOND = float(PICOSECONDS_PER_SECOND)


@compiled
def start(
    rules: Record, hosts: Hosts, index: int, round_trip_ps: int, packets: int, line_bps: int, start_ps: int
) -> None:
    """Sets the state at the start of a flow."""
    flow, kind = hosts.flows[index], rules.congestion
    initial = rules.fixed_window if rules.fixed_window > 0 else packets
    flow.window = np.int64(UNLIMITED) if kind == DCQCN else initial
    flow.packets_window = np.float64(initial)
    flow.alpha = rules.first_alpha
    flow.latest_ps, flow.target_ps = round_trip_ps, round_trip_ps + rules.queueing_ps + rules.hop_ps * flow.links
    flow.cut_ps = _LONG_AGO if kind == SWIFT else 0
    flow.rate_bps = flow.target_bps = flow.line_bps = np.float64(line_bps)
    flow.estimated_ps = flow.increased_ps = start_ps
    if kind == ASKED:
        credit.start(rules, flow, hosts.asked[index], initial, packets)
    if kind == NSCC:
        nscc.start(rules, flow, hosts.nscc[index], round_trip_ps)


@compiled
def go_on(rules: Record, hosts: Hosts, index: int, latest: int) -> None:
    """A flow takes over the state of an earlier one."""
    flow, earlier = hosts.flows[index], hosts.flows[latest]
    flow.window, flow.packets_window, flow.alpha = earlier.window, earlier.packets_window, earlier.alpha
    flow.seen, flow.marked, flow.cut_ps = earlier.seen, earlier.marked, earlier.cut_ps
    flow.latest_ps, flow.target_ps = earlier.latest_ps, earlier.target_ps
    flow.rate_bps, flow.target_bps, flow.line_bps = earlier.rate_bps, earlier.target_bps, earlier.line_bps
    flow.estimated_ps, flow.increased_ps = earlier.estimated_ps, earlier.increased_ps
    flow.timer_steps, flow.byte_steps = earlier.timer_steps, earlier.byte_steps
    flow.counted_bytes = earlier.counted_bytes
    if rules.congestion == NSCC:
        nscc.go_on(hosts.nscc[index], hosts.nscc[latest])


@compiled
def gap_ps(rules: Record, hosts: Hosts, index: int, wire: int, now: int) -> Whole:
    """Least time from the packet that leaves now to the next."""
    flow = hosts.flows[index]
    if rules.congestion == SWIFT and flow.packets_window < 1.0:
        return np.int64(flow.latest_ps / flow.packets_window)
    if rules.congestion == ASKED:
        credit.spend(flow, hosts.asked[index])
    if rules.congestion != DCQCN:
        return np.int64(0)
    _catch_up(rules, flow, now)
    flow.counted_bytes += wire
    while flow.counted_bytes >= rules.increase_bytes:
        flow.counted_bytes -= rules.increase_bytes
        flow.byte_steps += 1
        _increase(rules, flow)
    if flow.rate_bps >= flow.line_bps:
        return np.int64(0)
    return np.int64(8.0 * wire * _SECOND / flow.rate_bps)


@compiled
def on_ack(
    rules: Record,
    hosts: Hosts,
    index: int,
    packets: int,
    marked: int,
    notified: int,
    refused: int,
    round_trip_ps: int,
    now: int,
) -> None:
    """An acknowledgement, positive or negative, has arrived at the sender."""
    flow = hosts.flows[index]
    if rules.congestion == DCTCP:
        _dctcp(rules, flow, packets, marked, round_trip_ps, now)
    elif rules.congestion == SWIFT:
        _swift(rules, flow, packets, marked, round_trip_ps, now)
    elif rules.congestion == ASKED:
        credit.on_ack(flow, hosts.asked[index])
    elif rules.congestion == NSCC:
        nscc.on_ack(rules, flow, hosts.nscc[index], packets, marked, refused, round_trip_ps, now)
    elif rules.congestion == DCQCN:
        _catch_up(rules, flow, now)
        if notified:
            flow.target_bps = flow.rate_bps
            flow.rate_bps = max(rules.slowest_bps, flow.rate_bps * (1.0 - flow.alpha / 2.0))
            flow.alpha = (1.0 - rules.gain) * flow.alpha + rules.gain
            flow.estimated_ps = flow.increased_ps = now
            flow.timer_steps = flow.byte_steps = flow.counted_bytes = 0


@compiled
def on_timeout(rules: Record, hosts: Hosts, index: int, now: int) -> None:
    """The retransmission timer has run out: packets are taken as lost."""
    flow = hosts.flows[index]
    if rules.congestion == DCTCP:
        flow.packets_window = 1.0
        flow.window = 1
        flow.seen = flow.marked = 0
    elif rules.congestion == SWIFT:
        _shrink(rules, flow, 1.0 - rules.largest_decrease, now)
    elif rules.congestion == ASKED:
        credit.on_timeout(flow, hosts.asked[index])
    elif rules.congestion == NSCC:
        hosts.nscc[index].window_bytes = np.float64(rules.full_wire)
        flow.window = 1


@compiled
def _dctcp(rules: Record, flow: Record, packets: int, marked: int, round_trip_ps: int, now: int) -> None:
    counted = max(packets, np.int64(1)) if marked else packets
    flow.seen += counted
    if marked:
        flow.marked += counted
        if now - round_trip_ps >= flow.cut_ps:
            flow.packets_window = max(1.0, flow.packets_window * (1.0 - flow.alpha / 2.0))
            flow.cut_ps = now
    if flow.seen >= flow.packets_window:
        share = flow.marked / flow.seen
        flow.alpha = (1.0 - rules.gain) * flow.alpha + rules.gain * share
        if not flow.marked:
            flow.packets_window += 1.0
        flow.seen = flow.marked = 0
    flow.window = np.int64(flow.packets_window)


@compiled
def _swift(rules: Record, flow: Record, packets: int, marked: int, round_trip_ps: int, now: int) -> None:
    if marked and not packets:
        if now - flow.cut_ps >= flow.latest_ps:
            _shrink(rules, flow, 1.0 - rules.largest_decrease, now)
        return
    flow.latest_ps = round_trip_ps
    more_ps = rules.flow_gain / math.sqrt(flow.packets_window) + rules.flow_offset
    target_ps = flow.target_ps + np.int64(max(0.0, min(more_ps, rules.flow_range)))
    if round_trip_ps < target_ps:
        flow.packets_window += rules.increase * packets / max(flow.packets_window, 1.0)
        flow.window = max(np.int64(1), np.int64(flow.packets_window))
    elif now - flow.cut_ps >= round_trip_ps:
        excess = (round_trip_ps - target_ps) / round_trip_ps
        _shrink(rules, flow, max(1.0 - rules.decrease * excess, 1.0 - rules.largest_decrease), now)


@compiled
def _shrink(rules: Record, flow: Record, factor: float, now: int) -> None:
    flow.packets_window = max(rules.smallest_window, flow.packets_window * factor)
    flow.window = max(np.int64(1), np.int64(flow.packets_window))
    flow.cut_ps = now


@compiled
def _catch_up(rules: Record, flow: Record, now: int) -> None:
    """Applies all timers that have run out by now, each in its own order."""
    while flow.estimated_ps + rules.estimate_ps <= now:
        flow.estimated_ps += rules.estimate_ps
        flow.alpha = (1.0 - rules.gain) * flow.alpha
    if flow.rate_bps >= flow.line_bps and flow.target_bps >= flow.line_bps:
        flow.increased_ps = max(flow.increased_ps, now - (now - flow.increased_ps) % rules.increase_ps)
        return
    while flow.increased_ps + rules.increase_ps <= now:
        flow.increased_ps += rules.increase_ps
        flow.timer_steps += 1
        _increase(rules, flow)


@compiled
def _increase(rules: Record, flow: Record) -> None:
    """Fast recovery, then additive, then hyper increase, by how many steps each counter has made."""
    least, most = min(flow.timer_steps, flow.byte_steps), max(flow.timer_steps, flow.byte_steps)
    if least > rules.fast_steps:
        flow.target_bps += rules.hyper_bps
    elif most > rules.fast_steps:
        flow.target_bps += rules.additive_bps
    flow.target_bps = min(flow.target_bps, flow.line_bps)
    flow.rate_bps = (flow.rate_bps + flow.target_bps) / 2.0
