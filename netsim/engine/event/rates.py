"""Rates of links over time, for compiled code: see `netsim.topology.failure.Rates`."""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Network, Whole
from netsim.topology.failure import NEVER


@compiled
def rate_at(network: Network, link: int, time_ps: int) -> Whole:
    """Bits per second of a link at a moment."""
    row = network.change_begin[link]
    while row + 1 < network.change_begin[link + 1] and network.change_ps[row + 1] <= time_ps:
        row += 1
    return network.change_bps[row]


@compiled
def next_down(network: Network, link: int, time_ps: int) -> Whole:
    """The first moment from `time_ps` on at which a link is down, NEVER if there is none."""
    last = network.change_begin[link + 1] - 1
    for row in range(network.change_begin[link], last + 1):
        if not network.change_bps[row] and (row == last or network.change_ps[row + 1] > time_ps):
            return max(network.change_ps[row], time_ps)
    return np.int64(NEVER)
