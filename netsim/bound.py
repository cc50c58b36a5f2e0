"""A lower bound of the completion time for any packet-level transport, from tasks, fabric and injection order alone."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numba import njit

from netsim.engine.compiled.interpreted import ready
from netsim.engine.protocol import Scene
from netsim.passages import Passages, passages_of
from netsim.units import PICOSECONDS_PER_SECOND

_compile: Callable[..., Any] = njit
_OPTIONS: dict[str, Any] = {"_nrt": False, "error_model": "numpy", "forceinline": True}
_called, _inlined = _compile(**_OPTIONS, cache=True), _compile(**_OPTIONS)


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
        columns, links = scene.tasks.columns(), len(scene.topology.links)
        passages = passages_of(scene, frozenset(parts), anywhere, shares)
        start, end = (np.zeros(len(columns.src), dtype=np.int64) for _ in range(2))
        queues = np.zeros((3, 2 * links), dtype=np.int64)
        done = ready(_longest_chain)(columns, passages, start, end, queues, np.arange(len(start), dtype=np.int32))
        self._sent_from = np.full(links, -1, dtype=np.int64)
        ready(_earliest_end)(columns.src, passages, start, self._sent_from)
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


@_called
def _longest_chain(columns, passages, start, end, queues, everything):
    """Earliest end of all tasks; fills in the earliest start and end of each.

    `queues` is scratch: [3, first and last links] arrival, service (0 on entry) and remaining passage.
    """
    kinds = passages.kinds
    for task in range(len(columns.delay_ps)):
        awaited = columns.after[columns.after_begin[task] : columns.after_begin[task + 1]]
        start[task] = _all_done(awaited, columns, passages, start, end, queues) + columns.delay_ps[task]
        alone = np.int64(0)
        kind = passages.kind[task]
        if kind >= 0:
            alone = max(
                kinds.first_ps[kind] + kinds.tail_ps[kind],
                kinds.head_ps[kind] + kinds.last_ps[kind] + kinds.end_ps[kind],
            )
        end[task] = start[task] + alone
    return _all_done(everything, columns, passages, start, end, queues)


@_inlined
def _all_done(awaited, columns, passages, start, end, queues):
    """Earliest end of some tasks; a message alone in its queues ends no later than on its own."""
    done, messages = np.int64(0), 0
    links, kinds = queues.shape[1] // 2, passages.kinds
    for task in awaited:
        done = max(done, end[task])
        messages += passages.kind[task] >= 0
    if messages < 2:
        return done
    for task in awaited:
        kind = passages.kind[task]
        if kind < 0:
            continue
        first, last = _links(task, columns, passages)
        _join(queues, first, start[task], kinds.first_ps[kind], kinds.tail_ps[kind])
        if last != first:
            _join(queues, links + last, start[task] + kinds.head_ps[kind], kinds.last_ps[kind], kinds.end_ps[kind])
    for task in awaited:
        if passages.kind[task] >= 0:
            first, last = _links(task, columns, passages)
            done = max(done, _emptied(queues, first), _emptied(queues, links + last))
    return done


@_inlined
def _links(task, columns, passages):
    """First and last link of a task's message."""
    ends, src = passages.ends, columns.src[task]
    if passages.kinds.within[passages.kind[task]]:
        return ends.inside[src], ends.inside[src]
    return ends.up[src], ends.down[columns.dst[task]]


@_inlined
def _join(queues, queue, arrives_ps, service_ps, rest_ps):
    """Adds a message to a queue: arrival, positive service time, and remaining passage `rest_ps` after it."""
    if not queues[1, queue]:
        queues[0, queue], queues[2, queue] = arrives_ps, rest_ps
    queues[0, queue] = min(queues[0, queue], arrives_ps)
    queues[2, queue] = min(queues[2, queue], rest_ps)
    queues[1, queue] += service_ps


@_inlined
def _emptied(queues, queue):
    """Earliest end of the messages of a queue, which is empty afterwards; 0 if it is empty."""
    if not queues[1, queue]:
        return np.int64(0)
    done = queues[0, queue] + queues[1, queue] + queues[2, queue]
    queues[1, queue] = 0
    return done


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
