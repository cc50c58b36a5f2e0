"""A lower bound of the completion time for any packet-level transport, from tasks, fabric and injection order alone."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from netsim.engine import _core
from netsim.engine.core.fabric import FabricArrays, fabric_arrays
from netsim.engine.protocol import Scene
from netsim.foundation.units import PICOSECONDS_PER_SECOND


class Ends(NamedTuple):
    """Links of each rank's host, by rank."""

    up: np.ndarray  # to its leaf
    down: np.ndarray  # from its leaf
    inside: np.ndarray  # inside the host
    host: np.ndarray  # the host
    leaf: np.ndarray  # its leaf
    alike: np.ndarray  # number of the hosts that have this leaf and links of these rates and delays


class Wire(NamedTuple):
    """Packet sizes in bytes, and the rules for cutting a message into flows: they determine its smallest packet."""

    payload: int
    header: int
    parts: np.ndarray
    anywhere: bool
    shares: bool


class Bound:
    """Lower bound of the completion time of a scene.

    A task ends no earlier than the tasks it waits for, plus its delay, plus its passage through an empty fabric.
    Messages that share their first link pass it one after the other. A task that waits for several of them therefore
    waits at least for the earliest start, the service of all, and the shortest remaining passage; likewise for the last
    link. Traffic out of a leaf passes its links up, traffic into it its links down, at most at the sum of their rates.
    Every link counts at the highest rate that it ever has. Together this covers the program order of a rank with its
    gaps, and the links of every host and leaf.

    `of_run` adds the order of injection, which belongs to the scenario and not to the routing: a host's last packet
    leaves after the service of everything the host sends and then has its own passage. For an all-to-all of H hosts
    with P packets a pair, service time c, four links of delay d, and a last packet that leaves the leaf, this is
    ((H-1) P + 3) c + 4 d.

    The last packet of a flow may be small, but it leaves its host behind the full ones. So the first packet at the last
    link is a full one, or a small one behind the full ones of the shortest flow into which the message may be cut:
    into numbers of equal `parts`, `anywhere`, or into `shares` for their paths, as ethereal does.
    """

    def __init__(self, scene: Scene, parts: Iterable[int] = (), anywhere: bool = False, shares: bool = True) -> None:
        fabric, columns, links = fabric_arrays(scene), scene.tasks.columns(), len(scene.topology.links)
        best_bps = np.array([scene.rates.best(link) for link in range(links)], dtype=np.int64)
        routes = best_bps, fabric.delay_ps, fabric.pair, fabric.route_begin, fabric.route_links, fabric.route_length
        numbers = np.array(sorted(set(parts)), dtype=np.int64)
        wire = Wire(scene.packet.payload, scene.packet.header, numbers, anywhere, shares)
        crossing = np.zeros((2, len(scene.topology.tiers[0])), dtype=np.int64)
        self._sent_from = np.full(links, -1, dtype=np.int64)
        ends = _ends(np.asarray(scene.hosts, dtype=np.int64), fabric, best_bps)
        done_ps = _core.bound(columns, ends, routes, wire, crossing, self._sent_from)
        self.ps = max(done_ps, _leaves_ps(scene, crossing))

    def of_run(self, last_sent: Mapping[int, int]) -> int:
        """Bound of a run in ps; `last_sent` has for each host's link the remaining passage of its last packet in ps."""
        return max([self.ps, *(int(self._sent_from[link]) + rest for link, rest in last_sent.items())])


def _ends(host: np.ndarray, fabric: FabricArrays, best_bps: np.ndarray) -> Ends:
    links = fabric.up, fabric.down, fabric.inside
    described = np.stack([fabric.leaf, *(part[link] for link in links for part in (best_bps, fabric.delay_ps))])
    _, alike = np.unique(described, axis=1, return_inverse=True)
    up, down, inside = (link[host] for link in links)
    return Ends(up, down, inside, host, fabric.leaf[host], alike.reshape(-1)[host])


def _leaves_ps(scene: Scene, crossing: np.ndarray) -> int:
    """Longest time that any leaf needs to send or to receive all its traffic."""
    topology, longest = scene.topology, 0
    number = {name: leaf for leaf, name in enumerate(topology.tiers[0])}
    between = [(n, link) for n, link in enumerate(topology.links) if "host" not in (link.src[:4], link.dst[:4])]
    for sent, name in zip(crossing.tolist(), ("src", "dst"), strict=True):
        rates = [0] * len(number)
        for index, link in between:
            if (end := number.get(getattr(link, name))) is not None:
                rates[end] += scene.rates.best(index)
        times = (8 * PICOSECONDS_PER_SECOND * s // r for s, r in zip(sent, rates, strict=True) if r)
        longest = max(longest, *times, 0)
    return longest
