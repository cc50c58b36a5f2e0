"""A lower bound of the completion time for any packet-level transport, from tasks, fabric and injection order alone."""

from collections.abc import Iterable, Mapping

import numpy as np
from numba import njit

from netsim.engine.protocol import Scene
from netsim.passages import Passages, passages_of
from netsim.units import PICOSECONDS_PER_SECOND


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
        columns, links = scene.tasks.columns(), len(scene.topology.links)
        passages = passages_of(scene, frozenset(parts), anywhere)
        start = np.zeros(len(columns.src), dtype=np.int64)
        done = _longest_chain(columns, passages, start, links)
        self._sent_from = np.full(links, -1, dtype=np.int64)
        _earliest_end(columns.src, passages, start, self._sent_from)
        self.ps = max(int(done), _leaves_ps(scene, passages.crossing))

    def of_run(self, last_sent: Mapping[int, int]) -> int:
        """The bound of a run, given for each host's link the remaining passage of its last packet in picoseconds."""
        return max([self.ps, *(int(self._sent_from[link]) + rest for link, rest in last_sent.items())])


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


@njit(cache=True)
def _longest_chain(columns, passages, start, links):
    """Earliest end of all tasks; fills in the earliest start of each."""
    tasks = len(columns.delay_ps)
    end = np.zeros(tasks, dtype=np.int64)
    arrives = np.zeros(2 * links, dtype=np.int64)
    service, rest = np.zeros_like(arrives), np.zeros_like(arrives)
    everything = np.arange(tasks)
    kinds = passages.kinds
    for task in range(tasks):
        awaited = columns.after[columns.after_begin[task] : columns.after_begin[task + 1]]
        start[task] = _all_done(awaited, columns, passages, start, end, arrives, service, rest) + columns.delay_ps[task]
        alone = np.int64(0)
        kind = passages.kind[task]
        if kind >= 0:
            alone = max(
                kinds.first_ps[kind] + kinds.tail_ps[kind],
                kinds.head_ps[kind] + kinds.last_ps[kind] + kinds.end_ps[kind],
            )
        end[task] = start[task] + alone
    return _all_done(everything, columns, passages, start, end, arrives, service, rest)


@njit(cache=True)
def _all_done(awaited, columns, passages, start, end, arrives, service, rest):
    """Earliest end of some tasks; scratch arrays: an entry for each first and each last link, service 0 on entry."""
    done = np.int64(0)
    links, kinds = len(arrives) // 2, passages.kinds
    for task in awaited:
        done = max(done, end[task])
        kind = passages.kind[task]
        if kind < 0:
            continue
        first, last = _links(task, columns, passages)
        _join(first, start[task], kinds.first_ps[kind], kinds.tail_ps[kind], arrives, service, rest)
        if last != first:
            comes = start[task] + kinds.head_ps[kind]
            _join(links + last, comes, kinds.last_ps[kind], kinds.end_ps[kind], arrives, service, rest)
    for task in awaited:
        if passages.kind[task] < 0:
            continue
        first, last = _links(task, columns, passages)
        last += links
        if service[first]:
            done = max(done, arrives[first] + service[first] + rest[first])
            service[first] = 0
        if service[last]:
            done = max(done, arrives[last] + service[last] + rest[last])
            service[last] = 0
    return done


@njit(cache=True)
def _links(task, columns, passages):
    """First and last link of a task's message."""
    ends, src = passages.ends, columns.src[task]
    if passages.kinds.within[passages.kind[task]]:
        return ends.inside[src], ends.inside[src]
    return ends.up[src], ends.down[columns.dst[task]]


@njit(cache=True)
def _join(queue, arrives_ps, service_ps, rest_ps, arrives, service, rest):
    """Adds a message to a queue: arrival, positive service time, and remaining passage `rest_ps` after it."""
    if not service[queue] or arrives_ps < arrives[queue]:
        arrives[queue] = arrives_ps
    if not service[queue] or rest_ps < rest[queue]:
        rest[queue] = rest_ps
    service[queue] += service_ps


@njit(cache=True)
def _earliest_end(src, passages: Passages, start, ends):
    """For each first link, the earliest time at which everything has passed it; -1 if nothing does."""
    earliest = np.zeros(len(ends), dtype=np.int64)
    for task in range(len(src)):
        kind = passages.kind[task]
        if kind < 0:
            continue
        link = passages.ends.inside[src[task]] if passages.kinds.within[kind] else passages.ends.up[src[task]]
        if ends[link] < 0:
            ends[link], earliest[link] = 0, start[task]
        earliest[link] = min(earliest[link], start[task])
        ends[link] += passages.kinds.first_ps[kind]
    for link in range(len(ends)):
        if ends[link] >= 0:
            ends[link] += earliest[link]
