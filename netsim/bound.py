"""A lower bound of the completion time for any packet-level transport, from tasks, fabric and injection order alone."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.engine.protocol import Scene
from netsim.topology.protocol import Path
from netsim.units import PICOSECONDS_PER_SECOND, service_ps, split_bytes


class _Passages(NamedTuple):
    """Least times of each task's message: arrays by task, in picoseconds; -1 (link) or 0 (time) for no message.

    Args:
        first: Its first link.
        last: Its last link.
        first_ps: Service on the first link.
        last_ps: Service on the last link.
        head_ps: Time of its smallest packet up to the last link.
        tail_ps: Time of its smallest packet after its service on the first link.
        end_ps: Delay of the last link.
    """

    first: np.ndarray
    last: np.ndarray
    first_ps: np.ndarray
    last_ps: np.ndarray
    head_ps: np.ndarray
    tail_ps: np.ndarray
    end_ps: np.ndarray


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

    The last packet of a message may be small if the message is cut: into equal shares for its paths, as ethereal does,
    or as the arguments say.

    Args:
        scene: Tasks and fabric.
        parts: Numbers of equal parts into which transports cut messages.
        anywhere: Whether some transport may cut messages in any way.
    """

    def __init__(self, scene: Scene, parts: Iterable[int] = (), anywhere: bool = False) -> None:
        self._scene, self._parts, self._anywhere = scene, frozenset(parts), anywhere
        columns = scene.tasks.columns()
        passages = self._passages()
        links = len(scene.topology.links)
        start = np.zeros(len(columns.src), dtype=np.int64)
        done = _longest_chain(columns.after_begin, columns.after, columns.delay_ps, passages, start, links)
        self._sent_from = np.full(links, -1, dtype=np.int64)
        _earliest_end(passages.first, passages.first_ps, start, self._sent_from)
        self.ps = max(int(done), self._leaves())

    def of_run(self, last_sent: Mapping[int, int]) -> int:
        """The bound of a run, given for each host's link the remaining passage of its last packet in picoseconds."""
        return max([self.ps, *(int(self._sent_from[link]) + rest for link, rest in last_sent.items())])

    def _passages(self) -> _Passages:
        """The passage of every task, computed once for equal messages."""
        scene, topology, columns = self._scene, self._scene.topology, self._scene.tasks.columns()
        hosts = np.asarray(scene.hosts, dtype=np.int64)
        table = np.array([self._ends(host) for host in range(topology.hosts)], dtype=np.int64)
        passages = _Passages(*(np.full(len(columns.src), value, dtype=np.int64) for value in (-1, -1, 0, 0, 0, 0, 0)))
        moves = np.flatnonzero(columns.bytes)
        src, dst, size = hosts[columns.src[moves]], hosts[columns.dst[moves]], columns.bytes[moves]
        sizes, kind = np.unique(size, return_inverse=True)
        leaves = np.stack([table[src, 3], table[dst, 3], kind, src == dst])
        alike, which = np.unique(leaves, axis=1, return_inverse=True)
        which = which.reshape(-1)
        fabric = np.array([self._between(*row) for row in _with_sizes(alike, sizes)], dtype=np.int64).reshape(-1, 2)
        way_ps, smallest = fabric[which].T
        inside = src == dst
        up, down = np.where(inside, table[src, 2], table[src, 0]), np.where(inside, table[src, 2], table[dst, 1])
        wire = size + scene.packet.header * -(-size // scene.packet.payload)
        rate = np.array([scene.rates.best(link) for link in range(len(topology.links))], dtype=np.int64)
        delay = np.array([link.delay_ps for link in topology.links], dtype=np.int64)
        apart = ~inside
        passages.first[moves], passages.last[moves] = up, down
        passages.first_ps[moves], passages.last_ps[moves] = _service(wire, rate[up]), _service(wire, rate[down])
        passages.head_ps[moves] = apart * (_service(smallest, rate[up]) + delay[up] + way_ps)
        passages.tail_ps[moves] = delay[up] + apart * (way_ps + _service(smallest, rate[down]) + delay[down])
        passages.end_ps[moves] = delay[down]
        return passages

    def _ends(self, host: int) -> tuple[int, int, int, int]:
        topology = self._scene.topology
        return topology.up(host), topology.down(host), topology.inside(host), topology.leaf(host)

    def _between(self, src_leaf: int, dst_leaf: int, size_bytes: int, inside: bool) -> tuple[int, int]:
        """Time of a message's smallest packet between two leaves, and the size of that packet in bytes."""
        links, rates = self._scene.topology.links, self._scene.rates
        ways = () if inside else self._ways(src_leaf, dst_leaf)
        payload = self._smallest_packet(size_bytes, self._scene.packet.payload, max(1, len(ways)))
        wire = payload + self._scene.packet.header
        passes = (sum(service_ps(wire, rates.best(link)) + links[link].delay_ps for link in way) for way in ways)
        return min(passes, default=0), wire

    def _ways(self, src_leaf: int, dst_leaf: int) -> list[Path]:
        """Ways whose links are up at some time."""
        rates, ways = self._scene.rates, self._scene.topology.between(src_leaf, dst_leaf)
        return [way for way in ways if all(rates.best(link) for link in way)] or [ways[0]]

    def _smallest_packet(self, size_bytes: int, payload: int, paths: int) -> int:
        """Least payload of a packet."""
        if self._anywhere:
            return 1
        shares = {size_bytes * share // paths for share in range(1, paths + 1)}
        shares |= {-(-size_bytes * share // paths) for share in range(1, paths + 1)}
        shares |= {size for parts in self._parts for size in split_bytes(size_bytes, parts)}
        return min((size - 1) % payload + 1 for size in shares if size)

    def _leaves(self) -> int:
        """Longest time that any leaf needs to send or to receive all its traffic."""
        scene, topology = self._scene, self._scene.topology
        columns, number = scene.tasks.columns(), {name: leaf for leaf, name in enumerate(topology.tiers[0])}
        leaf = np.array([topology.leaf(host) for host in scene.hosts], dtype=np.int64)
        src, dst = leaf[columns.src], leaf[columns.dst]
        wire = columns.bytes + scene.packet.header * -(-columns.bytes // scene.packet.payload)
        between = [
            (index, link) for index, link in enumerate(topology.links) if "host" not in (link.src[:4], link.dst[:4])
        ]
        longest = 0
        for ends, name in ((src, "src"), (dst, "dst")):
            sent = np.zeros(len(number), dtype=np.int64)
            np.add.at(sent, ends[src != dst], wire[src != dst])
            rates = [0] * len(number)
            for index, link in between:
                if (end := number.get(getattr(link, name))) is not None:
                    rates[end] += scene.rates.best(index)
            times = (8 * PICOSECONDS_PER_SECOND * s // r for s, r in zip(sent.tolist(), rates, strict=True) if r)
            longest = max(longest, *times, 0)
        return longest


def _with_sizes(alike: np.ndarray, sizes: np.ndarray) -> Iterable[tuple[int, int, int, bool]]:
    return ((src, dst, int(sizes[kind]), bool(inside)) for src, dst, kind, inside in alike.T.tolist())


def _service(wire_bytes: np.ndarray, rate_bps: np.ndarray) -> np.ndarray:
    """`netsim.units.service_ps` for arrays, computed once for equal pairs; 0 for links that are never up."""
    one = cache(lambda size, rate: service_ps(size, rate) if rate else 0)
    if len(wire_bytes) == 0:
        return np.zeros(0, dtype=np.int64)
    sizes, size = np.unique(wire_bytes, return_inverse=True)
    rates, rate = np.unique(rate_bps, return_inverse=True)
    pairs, which = np.unique(size * len(rates) + rate, return_inverse=True)
    values = [one(int(sizes[pair // len(rates)]), int(rates[pair % len(rates)])) for pair in pairs.tolist()]
    return np.array(values, dtype=np.int64)[which]


@njit(cache=True)
def _longest_chain(after_begin, after, delay_ps, passages, start, links):
    """Earliest end of all tasks; fills in the earliest start of each."""
    tasks = len(delay_ps)
    end = np.zeros(tasks, dtype=np.int64)
    arrives = np.zeros(2 * links, dtype=np.int64)
    service, rest = np.zeros_like(arrives), np.zeros_like(arrives)
    everything = np.arange(tasks)
    for task in range(tasks):
        awaited = after[after_begin[task] : after_begin[task + 1]]
        start[task] = _all_done(awaited, passages, start, end, arrives, service, rest) + delay_ps[task]
        alone = np.int64(0)
        if passages.first[task] >= 0:
            alone = max(
                passages.first_ps[task] + passages.tail_ps[task],
                passages.head_ps[task] + passages.last_ps[task] + passages.end_ps[task],
            )
        end[task] = start[task] + alone
    return _all_done(everything, passages, start, end, arrives, service, rest)


@njit(cache=True)
def _all_done(awaited, passages, start, end, arrives, service, rest):
    """Earliest end of some tasks; scratch arrays: an entry for each first and each last link, service 0 on entry."""
    done = np.int64(0)
    links = len(arrives) // 2
    for task in awaited:
        done = max(done, end[task])
        first, last = passages.first[task], passages.last[task]
        if first < 0:
            continue
        _join(first, start[task], passages.first_ps[task], passages.tail_ps[task], arrives, service, rest)
        if last != first:
            comes = start[task] + passages.head_ps[task]
            _join(links + last, comes, passages.last_ps[task], passages.end_ps[task], arrives, service, rest)
    for task in awaited:
        first, last = passages.first[task], links + passages.last[task]
        if first < 0:
            continue
        if service[first]:
            done = max(done, arrives[first] + service[first] + rest[first])
            service[first] = 0
        if service[last]:
            done = max(done, arrives[last] + service[last] + rest[last])
            service[last] = 0
    return done


@njit(cache=True)
def _join(queue, arrives_ps, service_ps, rest_ps, arrives, service, rest):
    """Adds a message to a queue: arrival, positive service time, and remaining passage `rest_ps` after it."""
    if not service[queue] or arrives_ps < arrives[queue]:
        arrives[queue] = arrives_ps
    if not service[queue] or rest_ps < rest[queue]:
        rest[queue] = rest_ps
    service[queue] += service_ps


@njit(cache=True)
def _earliest_end(first, first_ps, start, ends):
    """For each first link, the earliest time at which everything has passed it; -1 if nothing does."""
    earliest = np.zeros(len(ends), dtype=np.int64)
    for task in range(len(first)):
        link = first[task]
        if link < 0:
            continue
        if ends[link] < 0:
            ends[link], earliest[link] = 0, start[task]
        earliest[link] = min(earliest[link], start[task])
        ends[link] += first_ps[task]
    for link in range(len(ends)):
        if ends[link] >= 0:
            ends[link] += earliest[link]
