"""A time that no packet-level transport can beat, from the tasks, the fabric and the order of injection alone."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cache
from typing import NamedTuple

from netsim.engine.protocol import Scene
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
    earliest start, the service of all, and the shortest way on; likewise for the last link. Fabric links are counted
    with an even spread over all paths, which no choice of paths betters on the busiest of equal links. Together this
    covers a rank's program order with its gaps, and every link's total bytes over its rate.

    `of_run` adds the order of injection, which belongs to the scenario and not to the routing: a host's last packet
    leaves after the service of everything the host sends and then has its own way to go. For an all-to-all of H hosts
    with P packets a pair of service c over four links of delay d whose last packet leaves the leaf this is
    ((H-1) P + 3) c + 4 d.

    All paths of a message share its first and its last link.

    Args:
        scene: What must happen, and where.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        between = cache(self._passage_between)
        hosts = scene.hosts
        self._passages = [between(hosts[t.src], hosts[t.dst], t.bytes) if t.bytes else None for t in scene.tasks]
        self._start: list[int] = []
        self._end: list[int] = []
        for task, passage in zip(scene.tasks, self._passages, strict=True):
            start = self._all_done(task.after) + task.delay_ps
            self._start.append(start)
            self._end.append(start + passage.alone_ps if passage else start)
        self.ps = max(self._all_done(range(len(scene.tasks))), self._fabric())

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
        topology, packet = self._scene.topology, self._scene.packet
        paths = topology.paths(src, dst)
        smallest = _smallest_packet(size_bytes, packet.payload, len(paths)) + packet.header
        wire_bytes = size_bytes + packet.header * -(-size_bytes // packet.payload)
        ways = [[topology.links[link] for link in path] for path in paths]
        first, last = ways[0][0], ways[0][-1]
        first_ps, last_ps = service_ps(wire_bytes, first.rate_bps), service_ps(wire_bytes, last.rate_bps)
        head_ps = min(sum(service_ps(smallest, link.rate_bps) + link.delay_ps for link in way[:-1]) for way in ways)
        rest_ps = min(sum(service_ps(smallest, link.rate_bps) + link.delay_ps for link in way[1:]) for way in ways)
        tail_ps, end_ps = first.delay_ps + rest_ps, last.delay_ps
        alone_ps = max(first_ps + tail_ps, head_ps + last_ps + end_ps)
        return _Passage(paths[0][0], paths[0][-1], first_ps, last_ps, head_ps, tail_ps, end_ps, alone_ps)

    def _fabric(self) -> int:
        """Longest total service on a link if every message spreads evenly over its paths."""
        scene = self._scene
        volume: Counter[tuple[int, int]] = Counter()
        for task in scene.tasks:
            packets = -(-task.bytes // scene.packet.payload)
            volume[scene.hosts[task.src], scene.hosts[task.dst]] += task.bytes + packets * scene.packet.header
        load: dict[int, Fraction] = defaultdict(Fraction)
        for (src, dst), size in volume.items():
            paths = scene.topology.paths(src, dst)
            for link, times in Counter(link for path in paths for link in path).items():
                load[link] += Fraction(size * times, len(paths))
        links = scene.topology.links
        service = (8 * PICOSECONDS_PER_SECOND * size / links[link].rate_bps for link, size in load.items())
        return int(max(service, default=0))


@cache
def _smallest_packet(size_bytes: int, payload: int, paths: int) -> int:
    """Least payload of a packet if a message is cut evenly into a number of pieces that divides the number of paths."""
    pieces = {size for k in range(1, paths + 1) if paths % k == 0 for size in split_bytes(size_bytes, k) if size}
    return min((size - 1) % payload + 1 for size in pieces)
