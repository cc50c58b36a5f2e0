"""What links do over time, for compiled code: see `netsim.topology.failure.Rates`."""

from typing import NamedTuple

import numpy as np
from netsim.engine.event.compiled import compiled

from netsim.topology.failure import NEVER


class Changes(NamedTuple):
    """Rows of the changes of each link; see `netsim.engine.compiled.fabric.FabricArrays`.

    Args:
        begin: [L + 1] rows of each link.
        time_ps: From when on.
        rate_bps: The rate; 0 is down.
    """

    begin: np.ndarray
    time_ps: np.ndarray
    rate_bps: np.ndarray


@compiled
def rate_at(changes, link, time_ps):
    """Bits per second of a link at a moment."""
    row = changes.begin[link]
    while row + 1 < changes.begin[link + 1] and changes.time_ps[row + 1] <= time_ps:
        row += 1
    return changes.rate_bps[row]


@compiled
def next_down(changes, link, time_ps):
    """The first moment from `time_ps` on at which a link is down, NEVER if there is none."""
    last = changes.begin[link + 1] - 1
    for row in range(changes.begin[link], last + 1):
        if not changes.rate_bps[row] and (row == last or changes.time_ps[row + 1] > time_ps):
            return max(changes.time_ps[row], time_ps)
    return np.int64(NEVER)
