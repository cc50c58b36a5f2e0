"""Rates of links over time, for compiled code: see `netsim.topology.failure.Rates`."""

import numpy as np

from netsim.engine.compiled.service import nominal_ps
from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Network, Whole
from netsim.topology.failure import NEVER


@compiled
def rate_at(network: Network, link: int, time_ps: int) -> Whole:
    """Bits per second of a link at a moment."""
    return network.change_bps[_row_at(network, link, time_ps)]


@compiled
def begin_service(network: Network, link: int, time_ps: int) -> None:
    """Notes that a link begins to serve a packet."""
    row = _row_at(network, link, time_ps)
    if network.change_since_ps[row] < 0:
        network.change_since_ps[row] = time_ps


@compiled
def work_ps(network: Network, link: int, begin_ps: int, end_ps: int) -> Whole:
    """See `netsim.engine.reference.conditions.Work.nominal_ps`."""
    rows = network.change_begin[link], network.change_begin[link + 1]
    nominal_bps = network.kinds[network.links[link].kind].rate_bps
    return nominal_ps(network.change_bps, network.change_since_ps, rows, nominal_bps, begin_ps, end_ps)


@compiled
def _row_at(network: Network, link: int, time_ps: int) -> Whole:
    row = network.change_begin[link]
    while row + 1 < network.change_begin[link + 1] and network.change_ps[row + 1] <= time_ps:
        row += 1
    return row


@compiled
def next_down(network: Network, link: int, time_ps: int) -> Whole:
    """The first moment from `time_ps` on at which a link is down, NEVER if there is none."""
    last = network.change_begin[link + 1] - 1
    for row in range(network.change_begin[link], last + 1):
        if not network.change_bps[row] and (row == last or network.change_ps[row + 1] > time_ps):
            return max(network.change_ps[row], time_ps)
    return np.int64(NEVER)
