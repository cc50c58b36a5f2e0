"""The ranks of a collective on a fabric: which links they share, how fast a message passes, and parallel channels.

With a single ring in the order of the ranks, all traffic between two hosts takes one adapter of each. NCCL therefore
has a channel for each adapter, and each channel carries a part of the data. From channel to channel, the ranks of a
host are rotated by one adapter. Along a ring, every second host is passed through in the opposite direction. So a
channel leaves a host by the adapter with the same number as the one by which it enters the next host: it stays on its
rail.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache, cached_property

import numpy as np

from netsim.collective.algorithms import LEAST_PIECE_BYTES
from netsim.collective.columns import MessageColumns, Shape, joined
from netsim.collective.protocol import Operation
from netsim.foundation.units import PICOSECONDS_PER_SECOND, service_ps, split_bytes
from netsim.topology.mapping import RankMap
from netsim.topology.protocol import Topology, paths

Orders = tuple[tuple[int, ...], ...]
"""The order of the participants in each channel."""

CHANNELLED = {
    ("all_reduce", "ring"),
    ("all_reduce", "tree"),
    ("all_reduce", "double_tree"),
    ("all_gather", "ring"),
    ("reduce_scatter", "ring"),
    ("broadcast", "ring"),
}
"""Collectives and algorithms whose traffic between hosts would take one adapter of each; others use all as they are."""


def orders(mapping: RankMap, *, ring: bool) -> Orders:
    """Order of the participants in each channel, a channel for each adapter; none with one adapter, or on one machine.

    With `ring`, every second machine is passed through in the opposite direction.
    """
    machines: dict[int, list[int]] = defaultdict(list)
    for participant, machine in enumerate(mapping.machines):
        machines[machine].append(participant)
    channels = min(len({mapping.hosts[member] for member in members}) for members in machines.values())
    if len(machines) == 1 or channels == 1:
        return ()
    listed: list[tuple[int, ...]] = []
    for channel in range(channels):
        order: list[int] = []
        for number, members in enumerate(machines.values()):
            first = channel * len(members) // channels
            turned = members[first:] + members[:first]
            order += turned[::-1] if ring and number % 2 else turned
        listed.append(tuple(order))
    return tuple(listed)


def worthwhile(channels: int, size_bytes: int) -> int:
    """How many of `channels` an operation uses: as many as get `LEAST_PIECE_BYTES` each, but at least one."""
    return max(1, min(channels, size_bytes // LEAST_PIECE_BYTES))


def share(operation: Operation, order: Sequence[int], channel: int, channels: int) -> Operation:
    """Returns the part of an operation that one channel carries, with participants in the channel's order."""

    def part(size_bytes: int) -> int:
        return split_bytes(size_bytes, channels)[channel]

    match operation.op:
        case "all_reduce":
            blocks = tuple(split_bytes(part(sum(operation.blocks)), operation.size))
        case "broadcast":
            blocks = (part(operation.blocks[0]),)
        case _:
            blocks = tuple(part(operation.blocks[participant]) for participant in order)
    return operation._replace(blocks=blocks, root=order.index(operation.root))


def side_by_side(schedules: Sequence[MessageColumns], rings: Orders) -> MessageColumns:
    """Joins the schedules of all channels; each message waits only for messages of its own channel."""
    places = [np.array(order, dtype=np.int64) for order in rings]
    return joined(
        [
            MessageColumns(Shape(place[one.src], place[one.dst], one.after_begin, one.after), one.bytes)
            for place, one in zip(places, schedules, strict=True)
        ]
    )


COLLISIONS = 1.4
"""Factor by which collisions under spraying lengthen the service of a full leaf's links; measured: 1.3 to 1.6."""


def size_of(operation: Operation) -> int:
    """Bytes of an operation, as tables of algorithms and NCCL count them.

    all_reduce: the vector; all_gather: the whole result; reduce_scatter: a rank's whole input; broadcast: the buffer;
    all_to_all: the largest input of a rank.
    """
    return max(map(sum, operation.matrix), default=0) if operation.matrix else sum(operation.blocks)


class Group:
    """The ranks of a collective; every link counts at its nominal rate.

    `steps_ps` is the time of software before a message to another machine, and before one inside.
    """

    def __init__(
        self, topology: Topology, mapping: RankMap, payload: int, header: int, steps_ps: tuple[int, int] = (0, 0)
    ) -> None:
        self._steps_ps = steps_ps
        self._topology, self._payload, self._header = topology, payload, header
        self.mapping, self.ranks = mapping, len(mapping.hosts)
        self._hosts, self.machines, self._gpus = (np.array(part, dtype=np.int64) for part in mapping)
        self._leaf = cache(topology.leaf)
        self._pattern = cache(self._loads_and_pairs)
        self.passage_ps = cache(self._passage_ps)
        self._orders = cache(self._new_orders)

    @cached_property
    def by_host(self) -> Counter[int]:
        """Participants of each machine."""
        return Counter(self.machines.tolist())

    @property
    def adapter_bps(self) -> int:
        """Sum of the rates of a machine's adapters that participants use, on the slowest machine."""
        rates: Counter[int] = Counter()
        for machine, host in {*zip(self.mapping.machines, self.mapping.hosts, strict=True)}:
            rates[machine] += self._topology.links[self._topology.up(host)].rate_bps
        return min(rates.values())

    @property
    def inside_bps(self) -> int:
        """Rate at which a rank sends inside its machine while all its other ranks do too, on the slowest machine."""
        topology = self._topology
        if self.mapping.gpus:
            return min(topology.links[topology.up(gpu)].rate_bps for gpu in self.mapping.gpus)
        inside = ((topology.inside(host), count) for host, count in self.by_host.items())
        return min(topology.links[link].rate_bps // count for link, count in inside)

    def channels(self, size_bytes: int, *, ring: bool) -> list[np.ndarray]:
        """Channels of an operation, each with the participants in their order."""
        rings = self._orders(ring)
        return [np.array(order, dtype=np.int64) for order in rings[: worthwhile(len(rings), size_bytes)]] or [
            np.arange(self.ranks, dtype=np.int64)
        ]

    def _new_orders(self, ring: bool) -> Orders:
        return orders(self.mapping, ring=ring) if self.mapping.gpus else ()

    def wire(self, size_bytes: int) -> int:
        """Bytes of a message with its headers."""
        return size_bytes + self._header * -(-size_bytes // self._payload)

    def round_ps(self, src: np.ndarray, dst: np.ndarray, size_bytes: int, *, most: bool = True) -> float:
        """Least time of messages of one size that leave together, in picoseconds.

        The longest passage of one of them through an empty fabric (the mean without `most`, for rounds that overlap
        along a ring), or the load of the busiest link of a host or leaf.
        """
        if not len(src) or not size_bytes:
            return 0.0
        loads, alone = self._pattern(src.tobytes(), dst.tobytes())
        passages = [self.passage_ps(*ends, size_bytes) + self._steps_ps[inside] for (*ends, inside), _ in alone]
        counts = [count for _, count in alone]
        passage = max(passages) if most else float(np.average(passages, weights=counts))
        return max(passage, loads * 8 * PICOSECONDS_PER_SECOND * self.wire(size_bytes))

    def _ends(self, src: np.ndarray, dst: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hosts of the fabric that send and receive the messages: GPUs inside a machine, adapters between machines."""
        if not len(self._gpus):
            return self._hosts[src], self._hosts[dst]
        near = self.machines[src] == self.machines[dst]
        return tuple(np.where(near, self._gpus[side], self._hosts[side]) for side in (src, dst))  # type: ignore[return-value]

    def _loads_and_pairs(self, src: bytes, dst: bytes) -> tuple[float, list[tuple[tuple[int, int, bool], int]]]:
        """Messages per bit/s of the busiest link, and representative pairs of hosts, each with how many are like it.

        Pairs between the same leaves have equal passages; each pair says whether it is within a machine.
        """
        first, second = np.frombuffer(src, dtype=np.int64), np.frombuffer(dst, dtype=np.int64)
        ends, inside = self._ends(first, second), self.machines[first] == self.machines[second]
        leaves = [np.array([self._leaf(host) for host in side.tolist()], dtype=np.int64) for side in ends]
        apart, topology, busiest = ends[0] != ends[1], self._topology, 0.0
        sides = (topology.up, ends[0][apart]), (topology.down, ends[1][apart]), (topology.inside, ends[0][~apart])
        for link_of, hosts in sides:
            for host, count in _counts(hosts):
                busiest = max(busiest, count / topology.links[link_of(host)].rate_bps)
        away = leaves[0] != leaves[1]
        for leaf, count in _counts(leaves[0][away]):
            other = int(leaves[1][away][leaves[0][away] == leaf][0])
            busiest = max(busiest, COLLISIONS * count / self._leaf_bps(leaf, other))
        alike = np.stack([*leaves, apart, inside])
        _, where, counts = np.unique(alike, axis=1, return_index=True, return_counts=True)
        pairs = [(int(ends[0][at]), int(ends[1][at]), bool(inside[at])) for at in where]
        return busiest, list(zip(pairs, counts.tolist(), strict=True))

    def _leaf_bps(self, leaf: int, other: int) -> int:
        """Sum of the rates of a leaf's links that lead to another leaf."""
        firsts = {route[0] for route in self._topology.between(leaf, other) if route}
        return sum(self._topology.links[link].rate_bps for link in firsts)

    def _passage_ps(self, src: int, dst: int, size_bytes: int) -> float:
        """Time of a message alone from host to host, store and forward."""
        routes = paths(self._topology, src, dst)
        links = [self._topology.links[link] for link in routes[0]]
        first = min(size_bytes, self._payload) + self._header
        head = sum(service_ps(first, link.rate_bps) + link.delay_ps for link in links)
        return head + service_ps(max(0, self.wire(size_bytes) - first), min(link.rate_bps for link in links))


def _counts(values: np.ndarray) -> list[tuple[int, int]]:
    """Distinct values, and how often each occurs."""
    distinct, counts = np.unique(values, return_counts=True)
    return list(zip(distinct.tolist(), counts.tolist(), strict=True))
