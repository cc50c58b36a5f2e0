"""Regions: parts of the fabric, switches or hosts, whose links and packets of a window fit into a cache together.

The loop deals with one region after the other, so that it fetches a link once a window from outside the cache.
"""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Record, State

LINKS_OF_REGION, _MOST_REGIONS = 512, 256
"""Links of a region, at least; regions."""

OF_HOSTS, OF_SWITCHES = range(2)
"""Regions of hosts come first in a window, those of switches after them."""


def regions_of(state: State) -> int:
    """Number of regions, a power of two: the first half are of hosts, the others of switches, or there is only one."""
    links = len(state.network.links)
    if links < 2 * LINKS_OF_REGION:
        return 1
    return 1 << (min(links // LINKS_OF_REGION, _MOST_REGIONS).bit_length() - 1)


def region_of_units(state: State, nodes: int, regions: int) -> np.ndarray:
    """Region of each unit: of links by the node at which they begin, then of nodes.

    Args:
        state: State of the run.
        nodes: Switches and hosts.
        regions: Number of regions.
    """
    links, routing, half = state.network.links, state.routing, regions // 2
    of_node, switches = np.zeros(nodes, dtype=np.int16), np.unique(routing.source[links["at_switch"] > 0])
    of_node[switches] = np.arange(len(switches)) * half // max(1, len(switches)) + half
    region, hosts = np.concatenate([of_node[routing.source], of_node]), np.arange(len(routing.up))
    region[routing.up] = region[routing.inside] = hosts * half // len(hosts)
    return region


@compiled
def is_of_hosts(window: Record, region: int) -> bool:
    """Whether a region is one of hosts, or the only one."""
    return region < max(1, window.regions // 2)
