"""Positions of switches and links on the drawing of a fabric."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from netsim.topology.protocol import Topology, gpu_links, network_tiers

Point = tuple[float, float]

_MOST_HOST_STROKES = 256
_MOST_STROKES_A_FAN = 12
_SLOW_LAYOUT = 120
_HOST_ROOM = 0.55
"""Height, in tiers, of the links to hosts."""


class Stroke(NamedTuple):
    """A line through both ends of a link, perhaps bent between them, which may stand for links of several hosts."""

    links: tuple[int, ...]
    points: tuple[Point, ...]


class Drawing(NamedTuple):
    """A fabric, or one direction of it (`title`), in a square from 0 to 1; rows have names and heights."""

    title: str
    switches: Mapping[str, Point]
    between: Sequence[Stroke]
    hosts: Sequence[Stroke]
    rows: Sequence[tuple[str, float]]


def drawings(topology: Topology) -> list[Drawing]:
    """Drawings of the links up and of the links down; a single one if links do not join neighbouring tiers."""
    tiers = {name: number for number, tier in enumerate(network_tiers(topology)) for name in tier}
    steps = {tiers[link.dst] - tiers[link.src] for link in topology.links if link.src in tiers and link.dst in tiers}
    if steps <= {1, -1}:
        return [_tiered(topology, tiers, up=True), _tiered(topology, tiers, up=False)]
    return [_spread(topology, tiers)]


def _tiered(topology: Topology, tiers: Mapping[str, int], up: bool) -> Drawing:
    """Rows of switches, hosts at the bottom."""
    heights = [
        (_HOST_ROOM + tier) / (_HOST_ROOM + max(1, len(network_tiers(topology)) - 1))
        for tier in range(len(network_tiers(topology)))
    ]
    switches = {
        name: ((place + 0.5) / len(tier), height)
        for tier, height in zip(network_tiers(topology), heights, strict=True)
        for place, name in enumerate(tier)
    }
    hosts: list[Stroke] = []
    most = max(1, _MOST_HOST_STROKES // len(network_tiers(topology)[0]))
    width = 0.9 / len(network_tiers(topology)[0])
    for leaf, below in _hosts_by_leaf(topology).items():
        x, y = switches[network_tiers(topology)[0][leaf]]
        groups = _groups(below, most)
        for place, group in enumerate(groups):
            foot = x + ((place + 0.5) / len(groups) - 0.5) * width
            links = tuple(topology.up(host) if up else topology.down(host) for host in group)
            hosts.append(Stroke(links, ((x + min(0.55, 0.025 / width) * (foot - x), y), (foot, 0.0))))
    shift = 0.16 / max(map(len, network_tiers(topology)))
    between = [
        Stroke((link,), tuple((switches[end][0] + side * shift, switches[end][1]) for end in ends))
        for link, ends, side in _between(topology, tiers)
        if (tiers[ends[1]] > tiers[ends[0]]) == up
    ]
    rows = [(hosts_in_words(topology), 0.0)]
    rows += [(row_name(tier), height) for tier, height in zip(network_tiers(topology), heights, strict=True)]
    return Drawing("towards the top" if up else "towards the hosts", switches, between, hosts, rows)


def _spread(topology: Topology, tiers: Mapping[str, int]) -> Drawing:
    """Switches close to their neighbours, hosts around their leaf; each direction of a cable bends to its right."""
    switches = _places(topology, tiers)
    shortest = min((math.dist(switches[a], switches[b]) for _, (a, b), _ in _between(topology, tiers)), default=0.5)
    reach = min(0.09, 0.6 * max(shortest, 0.05))
    hosts: list[Stroke] = []
    for leaf, below in _hosts_by_leaf(topology).items():
        x, y = switches[network_tiers(topology)[0][leaf]]
        outwards = math.atan2(y - 0.5, x - 0.5)
        groups = _groups(below, _MOST_STROKES_A_FAN)
        for place, group in enumerate(groups):
            angle = outwards + 1.6 * ((place + 0.5) / len(groups) - 0.5)
            foot = x + reach * math.cos(angle), y + reach * math.sin(angle)
            hosts.append(Stroke(tuple(map(topology.up, group)), _bent((x, y), foot, 0.12)))
            hosts.append(Stroke(tuple(map(topology.down, group)), _bent(foot, (x, y), 0.12)))
    between = [
        Stroke((link,), _bent(switches[src], switches[dst], 0.06 + 0.04 * (1 + side)))
        for link, (src, dst), side in _between(topology, tiers)
    ]
    return Drawing("", switches, between, hosts, ())


def _places(topology: Topology, tiers: Mapping[str, int]) -> dict[str, Point]:
    """By Kamada and Kawai's springs, or for many switches the quicker ones of Fruchterman and Reingold."""
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(tiers)
    graph.add_edges_from(ends for _, ends, _ in _between(topology, tiers))
    if len(graph) <= _SLOW_LAYOUT:
        places = networkx.kamada_kawai_layout(graph)
    else:
        places = networkx.spring_layout(graph, seed=0)
    xs, ys = ([float(place[axis]) for place in places.values()] for axis in (0, 1))
    size = max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0
    middle = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    return {
        name: (0.5 + 0.8 * (float(x) - middle[0]) / size, 0.5 + 0.8 * (float(y) - middle[1]) / size)
        for name, (x, y) in places.items()
    }


def _between(topology: Topology, tiers: Mapping[str, int]) -> Iterator[tuple[int, tuple[str, str], float]]:
    """Links between switches, their ends, and for parallel ones a number from -1 to 1 that keeps them apart."""
    parallel: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, link in enumerate(topology.links):
        if link.src in tiers and link.dst in tiers:
            parallel[link.src, link.dst].append(index)
    for ends, links in parallel.items():
        for place, link in enumerate(links):
            yield link, ends, (2 * place + 1) / len(links) - 1


def _bent(start: Point, end: Point, bend: float) -> tuple[Point, ...]:
    """A line that bends to the right by a share `bend` of its length."""
    across, along = end[0] - start[0], end[1] - start[1]
    middle = (start[0] + end[0]) / 2 + 2 * bend * along, (start[1] + end[1]) / 2 - 2 * bend * across
    return start, middle, end


def _hosts_by_leaf(topology: Topology) -> dict[int, list[int]]:
    hosts: dict[int, list[int]] = defaultdict(list)
    for host in range(_adapters(topology)):
        hosts[topology.leaf(host)].append(host)
    return hosts


def _adapters(topology: Topology) -> int:
    gpus = gpu_links(topology)
    return topology.hosts if gpus is None else gpus.first


def hosts_in_words(topology: Topology) -> str:
    """The number of hosts in words and, if they have several, of adapters on a host."""
    gpus, adapters = gpu_links(topology), _adapters(topology)
    if gpus is None:
        return f"{topology.hosts:,} host{'s' * (topology.hosts != 1)}"
    each = gpus.per_machine // topology.ranks_per_host
    machines = adapters // each
    hosts = f"{machines:,} host{'s' * (machines != 1)}"
    return hosts if each == 1 else f"{hosts} of {each} adapters"


def _groups(hosts: Sequence[int], most: int) -> list[Sequence[int]]:
    """Divides hosts into at most `most` groups of neighbours, as evenly as possible."""
    count = min(most, len(hosts))
    return [hosts[place * len(hosts) // count : (place + 1) * len(hosts) // count] for place in range(count)]


def row_name(tier: Sequence[str]) -> str:
    """Number and name of the switches of a tier, such as 8 leaves."""
    stems = {re.sub(r"\d+$", "", name) for name in tier}
    kind = stems.pop() if len(stems) == 1 else "switch"
    many = {"leaf": "leaves", "switch": "switches"}.get(kind, f"{kind}s")
    return f"{len(tier)} {kind if len(tier) == 1 else many}"
