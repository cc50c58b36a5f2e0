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
def start(rules: Record, flow: Record, own: Record, round_trip_ps: int) -> None:
    """Sets the state at the start of a flow."""
    packet = np.float64(rules.full_wire)
    own.network_ps = rules.network_ps if rules.network_ps > 0 else round_trip_ps
    flow.target_ps = rules.target_ps if rules.target_ps > 0 else np.int64(rules.trim_share * own.network_ps)
    flow.alpha = own.network_ps * flow.line_bps / _BIT_TIME / REFERENCE_BYTES
    own.base_ps = round_trip_ps
    own.most = _largest(rules, flow, own)
    first = rules.fixed_window * packet if rules.fixed_window > 0 else own.most
    own.window_bytes = max(first, packet)
    _show(rules, flow, own)


@compiled
def go_on(own: Record, earlier: Record) -> None:
    """The flow takes over the state of an earlier one; what has got through is counted anew."""
    own.window_bytes, own.average_ps, own.rise = earlier.window_bytes, earlier.average_ps, earlier.rise
    own.most, own.received, own.prompt = earlier.most, earlier.received, earlier.prompt
    own.ignored, own.to_ignore, own.fast = earlier.ignored, earlier.to_ignore, earlier.fast
    own.base_ps, own.network_ps, own.adjusted_ps = earlier.base_ps, earlier.network_ps, earlier.adjusted_ps
    own.achieved, own.adapts_ps, own.trimmed = 0.0, 0, 0


@compiled
def on_ack(
    rules: Record, flow: Record, own: Record, packets: int, marked: int, refused: int, round_trip_ps: int, now: int
) -> None:
    """An acknowledgement, positive or negative, has arrived at the sender."""
    packet = np.float64(rules.full_wire)
    if round_trip_ps < own.base_ps:
        own.base_ps = round_trip_ps
        own.most = _largest(rules, flow, own)
    if refused:
        _refuse(rules, flow, own, now)
        _show(rules, flow, own)
        return
    acked = packets * packet
    own.achieved += acked
    own.received += acked
    own.ignored += acked
    delay = round_trip_ps - own.base_ps
    if not marked and delay > flow.target_ps:
        own.average_ps = AVERAGE * (0.25 * own.base_ps) + (1.0 - AVERAGE) * own.average_ps
    else:
        own.average_ps = AVERAGE * delay + (1.0 - AVERAGE) * own.average_ps
    very_long = delay > VERY_LONG * flow.target_ps
    if not _adapt(rules, flow, own, very_long, marked, now, flow.in_flight * packet):
        if marked:
            if delay >= flow.target_ps:
                _shrink(flow, own, now)
        elif delay >= flow.target_ps:
            own.rise += FAIR * (packet * flow.alpha) * acked
        else:
            _grow(rules, flow, own, acked, delay)
        _bound(rules, own)
        if own.received > PERIOD_PACKETS * packet or now - own.adjusted_ps > own.network_ps:
            _adjust(rules, flow, own, now)
            _bound(rules, own)
    _show(rules, flow, own)


@compiled
def _show(rules: Record, flow: Record, own: Record) -> None:
    """Keeps the window in packets, which the sender looks at, up to date."""
    flow.window = max(np.int64(1), np.int64(own.window_bytes / np.float64(rules.full_wire)))


@compiled
def _refuse(rules: Record, flow: Record, own: Record, now: int) -> None:
    packet = np.float64(rules.full_wire)
    own.ignored += packet
    own.average_ps = AVERAGE * own.network_ps + (1.0 - AVERAGE) * own.average_ps
    own.trimmed = 1
    if not _adapt(rules, flow, own, True, True, now, (flow.in_flight + 1) * packet):
        own.window_bytes -= packet
        _bound(rules, own)


@compiled
def _adapt(rules: Record, flow: Record, own: Record, loss: bool, marked: int, now: int, under_way: float) -> bool:
    done = bool(marked) and own.ignored < own.to_ignore
    if not done and now > own.adapts_ps:
        if own.adapts_ps and (loss or own.trimmed) and own.achieved * rules.gate < own.most:
            own.window_bytes = max(own.achieved, np.float64(rules.full_wire))
            own.to_ignore, own.ignored = under_way, 0.0
            own.trimmed = 0
            done = True
        own.achieved = 0.0
        own.adapts_ps = now + own.base_ps + flow.target_ps
    if done:
        own.rise = own.received = 0.0
    return done


@compiled
def _grow(rules: Record, flow: Record, own: Record, acked: float, delay: int) -> None:
    if delay < PROMPT_PS:
        own.prompt += acked
        if own.fast or own.prompt > own.window_bytes:
            own.window_bytes += acked * (FAST * flow.alpha)
            own.fast = 1
            return
    else:
        own.prompt = 0.0
    own.fast = 0
    scaled = np.float64(rules.full_wire) * flow.alpha
    own.rise += PROPORTIONAL * scaled / REFERENCE_PS * acked * (flow.target_ps - delay)


@compiled
def _shrink(flow: Record, own: Record, now: int) -> None:
    own.fast, own.prompt = 0, 0.0
    if own.average_ps > flow.target_ps and now - flow.cut_ps > own.base_ps:
        excess = (own.average_ps - flow.target_ps) / own.average_ps
        own.window_bytes *= max(1.0 - DECREASE * excess, LARGEST_DECREASE)
        flow.cut_ps = now


@compiled
def _adjust(rules: Record, flow: Record, own: Record, now: int) -> None:
    own.window_bytes += own.rise / own.window_bytes
    if now - own.adjusted_ps >= own.network_ps:
        own.window_bytes += STEADY * (np.float64(rules.full_wire) * flow.alpha)
        own.adjusted_ps = now
    own.rise = own.received = 0.0


@compiled
def _bound(rules: Record, own: Record) -> None:
    own.window_bytes = min(max(own.window_bytes, np.float64(rules.full_wire)), own.most)


@compiled
def _largest(rules: Record, flow: Record, own: Record) -> float:
    most = LARGEST_WINDOW * (own.base_ps * flow.line_bps / _BIT_TIME)
    return max(most, np.float64(rules.full_wire))
