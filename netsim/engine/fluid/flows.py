"""The flows of a run as columns, and the draining of their bytes."""

from typing import NamedTuple

import numpy as np

SPREAD = -1
"""Value of `route` for a flow that spreads evenly over all usable routes."""


class Flows(NamedTuple):
    """Arrays with a row a flow; integers but for the last three."""

    id: np.ndarray  # as in `netsim.transport.protocol.Flow`
    task: np.ndarray  # task whose bytes it carries
    bytes: np.ndarray  # payload
    route: np.ndarray  # index of its route between the leaves, or SPREAD
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


class Routes(NamedTuple):
    """Quantities that determine the latency of a flow. L links."""

    delay_ps: np.ndarray  # [L] propagation delay
    rate_bps: np.ndarray  # [L] present rate; for links that are down the nominal one
    payload_bytes: int  # largest payload of a packet
    header_bytes: int  # header of a packet
