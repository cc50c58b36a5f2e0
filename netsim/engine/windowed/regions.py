"""Regions: parts of the fabric, switches or hosts, whose links and packets of a window fit into a cache together.

The loop deals with one region after the other, so that it fetches a link once a window from outside the cache.
"""

import numpy as np

from netsim.engine.event.state import State

LINKS_OF_REGION, _MOST_REGIONS, _OF_THREAD = 512, 256, 2
"""Links of a region, at least; regions; of several threads each has so many of either kind, at least."""

OF_HOSTS, OF_SWITCHES = range(2)
"""Regions of hosts come first in a window, those of switches after them."""


def regions_of(state: State, threads: int) -> int:
    """Number of regions: the first half are of hosts, the others of switches, or there is only one.

    A power of two for one thread; several have as many each, of either kind.
    """
    regions = max(1, min(len(state.network.links) // LINKS_OF_REGION, _MOST_REGIONS))
    regions = 1 << (regions.bit_length() - 1)
    return regions if threads == 1 else 2 * threads * max(_OF_THREAD, regions // (2 * threads))


def region_of_units(state: State, nodes: int, regions: int, threads: int) -> np.ndarray:
    """Region of each unit: of links by the node at which they begin, then of nodes.

    Links inside hosts are the leader's if there are several threads: they take part when tasks begin.
    """
    routing, half = state.routing, regions // 2
    of_node, switches = np.zeros(nodes, dtype=np.int16), np.setdiff1d(routing.source, routing.source[routing.up])
    of_node[switches] = np.arange(len(switches)) * half // max(1, len(switches)) + half
    region, hosts = np.concatenate([of_node[routing.source], of_node]), np.arange(len(routing.up))
    region[routing.up] = region[routing.inside] = hosts * half // len(hosts)
    if threads > 1:
        region[routing.inside] = 0
    return region


def owners_of(regions: int, threads: int) -> np.ndarray:
    """Thread of each region."""
    return (np.arange(regions) % max(1, regions // 2) % threads).astype(np.int32)
