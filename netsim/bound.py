"""A time that no packet-level transport can beat, from the tasks, the fabric and the order of injection alone."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from netsim.engine.protocol import Scene
from netsim.topology.protocol import Path
from netsim.units import PICOSECONDS_PER_SECOND, service_ps, split_bytes


class _Passage(NamedTuple):
    """The least that a message needs, in picoseconds.

    Args:
        first: Its first link.
        last: Its last link.
        first_ps: Service on the first link.
        last_ps: Service on the last link.
        head_ps: Way of its smallest packet up to the last link.
        tail_ps: Way of its smallest packet after its service on the first link.
        end_ps: Delay of the last link.
        alone_ps: All of it through an empty fabric.
    """

    first: int
    last: int
    first_ps: int
    last_ps: int
    head_ps: int
    tail_ps: int
    end_ps: int
    alone_ps: int


class _Queue:
    """Messages that pass one link one after the other."""

    def __init__(self) -> None:
        self._arrives = self._service = self._rest = 0

    def add(self, arrives_ps: int, service_ps: int, rest_ps: int) -> None:
        """A message that comes at `arrives_ps`, is served for a positive time, and then has `rest_ps` to go."""
        if not self._service or arrives_ps < self._arrives:
            self._arrives = arrives_ps
        if not self._service or rest_ps < self._rest:
            self._rest = rest_ps
        self._service += service_ps

    def done(self) -> int:
        """Earliest time at which all of them are where they go."""
        return self._arrives + self._service + self._rest


class Bound:
    """Lower bound of the completion time of a scene.

    A task is not done before those it waits for, its delay, and its own passage through an empty fabric. Messages that
    share their first link pass it one after the other, so tasks that wait for several of them wait at least for the
    earliest start, the service of all, and the shortest way on; likewise for the last link. What leaves a leaf
    passes its links up, what comes to it its links down, at their rates together. All rates are the best ever had.
    Together this covers a rank's program order with its gaps, and the links of every host and leaf.

    `of_run` adds the order of injection, which belongs to the scenario and not to the routing: a host's last packet
    leaves after the service of everything the host sends and then has its own way to go. For an all-to-all of H hosts
    with P packets a pair of service c over four links of delay d whose last packet leaves the leaf this is
    ((H-1) P + 3) c + 4 d.

    The last packet of a message may be small if the message is cut: into shares of its paths, which is what ethereal
    does, or as the arguments say.

    Args:
        scene: What must happen, and where.
        parts: Numbers of equal parts into which transports cut messages.
        anywhere: Whether some transport may cut messages in any way.
    """

    def __init__(self, scene: Scene, parts: Iterable[int] = (), anywhere: bool = False) -> None:
        self._scene, self._parts, self._anywhere = scene, frozenset(parts), anywhere
        self._smallest_packet = cache(self._smallest_packet_of)
        between = cache(self._passage_between)
        hosts = scene.hosts
        self._passages = [between(hosts[t.src], hosts[t.dst], t.bytes) if t.bytes else None for t in scene.tasks]
        self._start: list[int] = []
        self._end: list[int] = []
        for task, passage in zip(scene.tasks, self._passages, strict=True):
            start = self._all_done(task.after) + task.delay_ps
            self._start.append(start)
            self._end.append(start + passage.alone_ps if passage else start)
        self.ps = max(self._all_done(range(len(scene.tasks))), self._leaves())

    def of_run(self, last_sent: Mapping[int, int]) -> int:
        """The bound of a run whose last packet on a host's link had `last_sent` picoseconds to go from there."""
        queues: dict[int, _Queue] = defaultdict(_Queue)
        for start, passage in zip(self._start, self._passages, strict=True):
            if passage:
                queues[passage.first].add(start, passage.first_ps, 0)
        return max([self.ps, *(queues[link].done() + rest for link, rest in last_sent.items())])

    def _all_done(self, awaited: Iterable[int]) -> int:
        """Earliest time at which all of the tasks are done."""
        done = 0
        queues: dict[int, _Queue] = defaultdict(_Queue)
        for index in awaited:
            done = max(done, self._end[index])
            passage = self._passages[index]
            if passage:
                start = self._start[index]
                queues[passage.first].add(start, passage.first_ps, passage.tail_ps)
                if passage.last != passage.first:
                    queues[passage.last].add(start + passage.head_ps, passage.last_ps, passage.end_ps)
        return max([done, *(queue.done() for queue in queues.values())])

    def _passage_between(self, src: int, dst: int, size_bytes: int) -> _Passage:
        packet, links, rates = self._scene.packet, self._scene.topology.links, self._scene.rates
        paths = self._paths(src, dst)
        smallest = self._smallest_packet(size_bytes, packet.payload, len(paths)) + packet.header
        wire_bytes = size_bytes + packet.header * -(-size_bytes // packet.payload)

        def passes(path: Path) -> int:
            return sum(service_ps(smallest, rates.best(link)) + links[link].delay_ps for link in path)

        first, last = paths[0][0], paths[0][-1]
        first_ps, last_ps = service_ps(wire_bytes, rates.best(first)), service_ps(wire_bytes, rates.best(last))
        head_ps = min(passes(path[:-1]) for path in paths)
        rest_ps = min(passes(path[1:]) for path in paths)
        tail_ps, end_ps = links[first].delay_ps + rest_ps, links[last].delay_ps
        alone_ps = max(first_ps + tail_ps, head_ps + last_ps + end_ps)
        return _Passage(first, last, first_ps, last_ps, head_ps, tail_ps, end_ps, alone_ps)

    def _smallest_packet_of(self, size_bytes: int, payload: int, paths: int) -> int:
        """Least payload of a packet."""
        if self._anywhere:
            return 1
        shares = {size_bytes * share // paths for share in range(1, paths + 1)}
        shares |= {-(-size_bytes * share // paths) for share in range(1, paths + 1)}
        shares |= {size for parts in self._parts for size in split_bytes(size_bytes, parts)}
        return min((size - 1) % payload + 1 for size in shares if size)

    def _paths(self, src: int, dst: int) -> list[Path]:
        """Paths that work at some time."""
        rates, paths = self._scene.rates, self._scene.routes.paths(src, dst)
        return [path for path in paths if all(rates.best(link) for link in path)] or [paths[0]]

    def _leaves(self) -> int:
        """Longest time that a leaf needs for what it sends or receives."""
        scene = self._scene
        topology = scene.topology
        volume: Counter[tuple[int, int]] = Counter()
        for task in scene.tasks:
            packets = -(-task.bytes // scene.packet.payload)
            pair = topology.leaf(scene.hosts[task.src]), topology.leaf(scene.hosts[task.dst])
            volume[pair] += task.bytes + packets * scene.packet.header
        out: Counter[int] = Counter()
        into: Counter[int] = Counter()
        for (src, dst), size in volume.items():
            if src != dst:
                out[src] += size
                into[dst] += size
        number = {name: leaf for leaf, name in enumerate(topology.tiers[0])}
        rate_out: Counter[int] = Counter()
        rate_into: Counter[int] = Counter()
        for index, link in enumerate(topology.links):
            if not link.dst.startswith("host") and not link.src.startswith("host"):
                rate_out[number.get(link.src, -1)] += scene.rates.best(index)
                rate_into[number.get(link.dst, -1)] += scene.rates.best(index)
        times = [8 * PICOSECONDS_PER_SECOND * size // max(1, rate_out[leaf]) for leaf, size in out.items()]
        times += [8 * PICOSECONDS_PER_SECOND * size // max(1, rate_into[leaf]) for leaf, size in into.items()]
        return max(times, default=0)
