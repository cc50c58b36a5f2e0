"""The flows of a run as columns, and the draining of their bytes."""

from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.engine.compiled.service import service_ps
from netsim.engine.fluid.segments import SegmentArrays

SPREAD = -1
"""Value of `way` for a flow that spreads evenly over all usable ways."""


class Flows(NamedTuple):
    """Arrays with a row a flow; integers but for the last three."""

    id: np.ndarray  # as in `netsim.transport.protocol.Flow`
    task: np.ndarray  # task whose bytes it carries
    bytes: np.ndarray  # payload
    way: np.ndarray  # index of its way between the leaves, or SPREAD
    start_ps: np.ndarray  # when its message was released
    end_ps: np.ndarray  # when its last byte arrives
    segments: np.ndarray  # [flows, 3] first link, middle segment, last link, as indices of `Segments`
    since_ps: np.ndarray  # time from which its present rate holds
    left_bytes: np.ndarray  # bytes left to send at that time, headers included
    rate: np.ndarray  # bytes per picosecond
    empty_ps: np.ndarray  # when it has sent everything at this rate, infinite at rate 0


def no_flows() -> Flows:
    """Columns without rows."""
    whole, part = np.zeros(0, dtype=np.int64), np.zeros(0)
    return Flows(whole, whole, whole, whole, whole, whole, np.zeros((0, 3), dtype=np.int64), whole, part, part, part)


def with_room(flows: Flows, used: int, more: int) -> Flows:
    """The columns with at least `more` rows behind the first `used`."""
    if used + more <= len(flows.id):
        return flows
    rows = max(used + more, 2 * used)
    grown = [np.zeros((rows, *column.shape[1:]), dtype=column.dtype) for column in flows]
    for column, old in zip(grown, flows, strict=True):
        column[:used] = old[:used]
    return Flows(*grown)


class Ways(NamedTuple):
    """Quantities that determine the latency of a flow. L links."""

    delay_ps: np.ndarray  # [L] propagation delay
    rate_bps: np.ndarray  # [L] present rate; for links that are down the nominal one
    payload_bytes: int  # largest payload of a packet
    header_bytes: int  # header of a packet


@njit(cache=True)
def change_rates(flows: Flows, changed: np.ndarray, before: np.ndarray, now_ps: int) -> None:
    """Changes the rates of flows from `before` to `flows.rate` as of now."""
    for place, flow in enumerate(changed):
        rate = flows.rate[flow]
        if rate != before[place]:
            sent_bytes = before[place] * (now_ps - flows.since_ps[flow])
            flows.left_bytes[flow] = max(0.0, flows.left_bytes[flow] - sent_bytes)
            flows.since_ps[flow] = now_ps
            flows.empty_ps[flow] = now_ps + flows.left_bytes[flow] / rate if rate else np.inf


@njit(cache=True)
def latencies(flows: Flows, sent: np.ndarray, fabric: SegmentArrays, ways: Ways) -> np.ndarray:
    """Latency of the last bytes: delays, and service of the last packet on all links but the first."""
    latencies_ps = np.empty(len(sent), dtype=np.int64)
    for place, flow in enumerate(sent):
        last_bytes = (flows.bytes[flow] - 1) % ways.payload_bytes + 1 + ways.header_bytes
        latency = ways.delay_ps[flows.segments[flow, 0]]
        for part in flows.segments[flow, 1:]:
            for row in range(fabric.begin[part], fabric.begin[part] + fabric.first_way[part]):
                link = fabric.link[row]
                latency += ways.delay_ps[link] + service_ps(int(last_bytes), int(ways.rate_bps[link]))
        latencies_ps[place] = latency
    return latencies_ps
