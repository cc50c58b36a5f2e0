"""NSCC of a flow in compiled code: see `netsim.congestion.nscc`, whose arithmetic is repeated step by step."""

import numpy as np

from netsim.congestion.nscc import (
    AVERAGE,
    DECREASE,
    FAIR,
    FAST,
    LARGEST_DECREASE,
    LARGEST_WINDOW,
    PERIOD_PACKETS,
    PROMPT_PS,
    PROPORTIONAL,
    REFERENCE_BYTES,
    REFERENCE_PS,
    STEADY,
    VERY_LONG,
)
from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Record
from netsim.units import PICOSECONDS_PER_SECOND

_BIT_TIME = 8.0 * PICOSECONDS_PER_SECOND


@compiled
def start(rules: Record, flow: Record, round_trip_ps: int) -> None:
    """Sets the state at the start of a flow."""
    packet = np.float64(rules.full_wire)
    flow.network_ps = rules.network_ps if rules.network_ps > 0 else round_trip_ps
    flow.target_ps = rules.target_ps if rules.target_ps > 0 else np.int64(rules.trim_share * flow.network_ps)
    flow.alpha = flow.network_ps * flow.line_bps / _BIT_TIME / REFERENCE_BYTES
    flow.base_ps = round_trip_ps
    flow.most = _largest(rules, flow)
    first = rules.fixed_window * packet if rules.fixed_window > 0 else flow.most
    flow.window_bytes = max(first, packet)
    _show(rules, flow)


@compiled
def on_ack(rules: Record, flow: Record, packets: int, marked: int, refused: int, round_trip_ps: int, now: int) -> None:
    """An acknowledgement, positive or negative, has arrived at the sender."""
    packet = np.float64(rules.full_wire)
    if round_trip_ps < flow.base_ps:
        flow.base_ps = round_trip_ps
        flow.most = _largest(rules, flow)
    if refused:
        _refuse(rules, flow, now)
        _show(rules, flow)
        return
    acked = packets * packet
    flow.achieved += acked
    flow.received += acked
    flow.ignored += acked
    delay = round_trip_ps - flow.base_ps
    if not marked and delay > flow.target_ps:
        flow.average_ps = AVERAGE * (0.25 * flow.base_ps) + (1.0 - AVERAGE) * flow.average_ps
    else:
        flow.average_ps = AVERAGE * delay + (1.0 - AVERAGE) * flow.average_ps
    very_long = delay > VERY_LONG * flow.target_ps
    if not _adapt(rules, flow, very_long, marked, now, flow.in_flight * packet):
        if marked:
            if delay >= flow.target_ps:
                _shrink(flow, now)
        elif delay >= flow.target_ps:
            flow.rise += FAIR * (packet * flow.alpha) * acked
        else:
            _grow(rules, flow, acked, delay)
        _bound(rules, flow)
        if flow.received > PERIOD_PACKETS * packet or now - flow.adjusted_ps > flow.network_ps:
            _adjust(rules, flow, now)
            _bound(rules, flow)
    _show(rules, flow)


@compiled
def _show(rules: Record, flow: Record) -> None:
    """Keeps the window in packets, which the sender looks at, up to date."""
    flow.window = max(np.int64(1), np.int64(flow.window_bytes / np.float64(rules.full_wire)))


@compiled
def _refuse(rules: Record, flow: Record, now: int) -> None:
    packet = np.float64(rules.full_wire)
    flow.ignored += packet
    flow.average_ps = AVERAGE * flow.network_ps + (1.0 - AVERAGE) * flow.average_ps
    flow.trimmed = 1
    if not _adapt(rules, flow, True, True, now, (flow.in_flight + 1) * packet):
        flow.window_bytes -= packet
        _bound(rules, flow)


@compiled
def _adapt(rules: Record, flow: Record, loss: bool, marked: int, now: int, under_way: float) -> bool:
    done = bool(marked) and flow.ignored < flow.to_ignore
    if not done and now > flow.adapts_ps:
        if flow.adapts_ps and (loss or flow.trimmed) and flow.achieved * rules.gate < flow.most:
            flow.window_bytes = max(flow.achieved, np.float64(rules.full_wire))
            flow.to_ignore, flow.ignored = under_way, 0.0
            flow.trimmed = 0
            done = True
        flow.achieved = 0.0
        flow.adapts_ps = now + flow.base_ps + flow.target_ps
    if done:
        flow.rise = flow.received = 0.0
    return done


@compiled
def _grow(rules: Record, flow: Record, acked: float, delay: int) -> None:
    if delay < PROMPT_PS:
        flow.prompt += acked
        if flow.fast or flow.prompt > flow.window_bytes:
            flow.window_bytes += acked * (FAST * flow.alpha)
            flow.fast = 1
            return
    else:
        flow.prompt = 0.0
    flow.fast = 0
    scaled = np.float64(rules.full_wire) * flow.alpha
    flow.rise += PROPORTIONAL * scaled / REFERENCE_PS * acked * (flow.target_ps - delay)


@compiled
def _shrink(flow: Record, now: int) -> None:
    flow.fast, flow.prompt = 0, 0.0
    if flow.average_ps > flow.target_ps and now - flow.cut_ps > flow.base_ps:
        excess = (flow.average_ps - flow.target_ps) / flow.average_ps
        flow.window_bytes *= max(1.0 - DECREASE * excess, LARGEST_DECREASE)
        flow.cut_ps = now


@compiled
def _adjust(rules: Record, flow: Record, now: int) -> None:
    flow.window_bytes += flow.rise / flow.window_bytes
    if now - flow.adjusted_ps >= flow.network_ps:
        flow.window_bytes += STEADY * (np.float64(rules.full_wire) * flow.alpha)
        flow.adjusted_ps = now
    flow.rise = flow.received = 0.0


@compiled
def _bound(rules: Record, flow: Record) -> None:
    flow.window_bytes = min(max(flow.window_bytes, np.float64(rules.full_wire)), flow.most)


@compiled
def _largest(rules: Record, flow: Record) -> float:
    most = LARGEST_WINDOW * (flow.base_ps * flow.line_bps / _BIT_TIME)
    return max(most, np.float64(rules.full_wire))
