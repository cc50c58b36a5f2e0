"""Simulates units, each alone on the network, and collects their passages over links."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from netsim.engine import _core
from netsim.engine.core.fabric import FabricArrays
from netsim.engine.exact.admission import admit
from netsim.engine.exact.injection import cargo_of
from netsim.engine.exact.layout import Layout
from netsim.engine.exact.messages import Messages, placed
from netsim.engine.exact.travel import Arrivals, Packets, remaining_ps, travel
from netsim.engine.protocol import Scene
from netsim.transport.config import EtherealConfig, TransportConfig


class Passages(NamedTuple):
    """Units at links, and the queues that their packets joined at switches; times count from the unit's release."""

    unit: np.ndarray  # of each passage
    link: np.ndarray  # its link
    first_ps: np.ndarray  # when the first packet arrives
    last_ps: np.ndarray  # when the last one has left
    packets: np.ndarray  # number of packets
    bytes: np.ndarray  # that the link carried
    busy_ps: np.ndarray  # how long it was busy
    longest_ps: np.ndarray  # longest queue that a packet joined
    tag: np.ndarray  # the last packet
    queue_unit: np.ndarray  # unit of each queue
    queue_time_ps: np.ndarray  # when a packet joined it
    queue_ps: np.ndarray  # the queue


_OF_QUEUES = 3
"""Number of fields of `Passages` with an entry per queue; the others have one per passage."""


def passages(
    fabric: FabricArrays,
    arrivals: Arrivals,
    packets: Packets,
    unit_of_flow: np.ndarray,
    release_ps: np.ndarray,
    width_ps: int,
) -> Passages:
    """Returns the passages of units over links, on each of which no packets of two units overlap in time."""
    links, count = len(arrivals.begin) - 1, len(arrivals.tag)
    sizes = [min(count, links * len(release_ps))] * (len(Passages._fields) - _OF_QUEUES) + [count] * _OF_QUEUES
    room = Passages(*(np.empty(size, dtype=np.int64) for size in sizes))
    rows, queues, apart = _core.follow_units(fabric, arrivals, packets, unit_of_flow, release_ps, width_ps, room)
    assert apart, "further apart than any can last"
    return Passages(*(part[:rows] for part in room[:-_OF_QUEUES]), *(part[:queues] for part in room[-_OF_QUEUES:]))


def thin(
    time_ps: np.ndarray, queue_ps: np.ndarray, begin: np.ndarray, width_ps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keeps the queue lengths of each unit that can be the largest in some interval of at least `width_ps`.

    Returns:
        The entries that are kept of both arrays, which are overwritten, and the first entry of each unit.
    """
    kept = np.empty_like(begin)
    _core.thin_queues(time_ps, queue_ps, begin, kept, width_ps)
    return time_ps[: kept[-1]].copy(), queue_ps[: kept[-1]].copy(), kept


class Units(NamedTuple):
    """Results of units. Arrays of int64; times in picoseconds from a unit's release.

    The columns of a group have an entry for each message, flow, passage over a link, or queue, and `begin` says where
    those of each unit begin, and where the last end.
    """

    message_begin: np.ndarray  # messages, in the order of their tasks
    start_ps: np.ndarray  # release of a message
    end_ps: np.ndarray  # arrival of its last byte
    flow_begin: np.ndarray  # flows, in the order of their ids
    message: np.ndarray  # a flow's message, counted within the unit
    piece: np.ndarray  # its place among the flows of the message
    bytes: np.ndarray  # its payload
    packets: np.ndarray  # its packets
    flow_end_ps: np.ndarray  # arrival of its last byte
    reordered: np.ndarray  # packets that arrived after one with a higher number
    link_begin: np.ndarray  # passages
    link: np.ndarray  # the link, by its place in the binding of the occurrence; ascending
    first_ps: np.ndarray  # when the first packet arrives at it
    last_ps: np.ndarray  # when the last one has left it
    link_packets: np.ndarray  # packets that it carried
    link_bytes: np.ndarray  # bytes that it carried
    busy_ps: np.ndarray  # how long it was busy
    longest_ps: np.ndarray  # longest queue that a packet joined at it
    # Remaining passage of the last packet after this link, without queues; -1 unless a host sends on it
    rest_ps: np.ndarray
    queue_begin: np.ndarray  # queues at switches, thinned
    queue_time_ps: np.ndarray  # when a packet joined one
    queue_ps: np.ndarray  # its length

    @property
    def count(self) -> int:
        """Number of units."""
        return len(self.message_begin) - 1

    def joined(self, others: "Units") -> "Units":
        """These units, followed by others."""
        parts = zip(self._fields, self, others, strict=True)
        both = {name: np.concatenate([mine, theirs]) for name, mine, theirs in parts}
        for name in ("message_begin", "flow_begin", "link_begin", "queue_begin"):
            mine, theirs = getattr(self, name), getattr(others, name)
            both[name] = np.concatenate([mine, theirs[1:] + mine[-1]])
        return Units(**both)

    @classmethod
    def none(cls) -> "Units":
        """No units."""
        begins = {name: np.zeros(int(name.endswith("begin")), dtype=np.int64) for name in cls._fields}
        return cls(**begins)

    def bound(self, bindings: Sequence[Sequence[int]]) -> "Units":
        """Replaces numbers of links by their places in a binding; each unit has one binding, of all its links."""
        place, order = np.empty_like(self.link), np.empty_like(self.link)
        for unit, links in enumerate(bindings):
            rows = slice(int(self.link_begin[unit]), int(self.link_begin[unit + 1]))
            sorted_places = np.argsort(np.array(links, dtype=np.int64))
            places = sorted_places[np.searchsorted(np.sort(np.array(links, dtype=np.int64)), self.link[rows])]
            place[rows], order[rows] = places, rows.start + np.argsort(places)
        columns = ("first_ps", "last_ps", "link_packets", "link_bytes", "busy_ps", "longest_ps", "rest_ps")
        ordered = {name: getattr(self, name)[order] for name in columns}
        return self._replace(link=place[order], **ordered)


class Simulator:
    """Simulates units of a run."""

    def __init__(self, scene: Scene, layout: Layout, transport: TransportConfig, seed: int, stride: int) -> None:
        self._scene, self._layout, self._transport, self._seed, self._stride = scene, layout, transport, seed, stride
        self._hosts = np.asarray(scene.hosts, dtype=np.int64)
        self._rate_bps = np.array(scene.rates.initial, dtype=np.int64)

    def simulate(
        self, tasks: np.ndarray, width_ps: int, release_ps: np.ndarray | None = None, *, apart: bool = False
    ) -> Units:
        """Simulates messages as one unit or, if `apart`, each as a unit of its own; `Units.link` are ascending numbers.

        The tasks of one unit ascend, and their releases begin at 0; None: all are 0. If `apart`, one run serves all
        messages, so far apart in time that they cannot meet.
        """
        layout, fabric = self._layout, self._layout.fabric
        order = np.arange(len(tasks), dtype=np.int64)
        unit = order if apart else np.zeros_like(order)
        release_ps = order * self._longest_ps(tasks) if apart else release_ps
        release_ps = np.zeros_like(order) if release_ps is None else release_ps
        messages = self._messages(tasks, release_ps)
        flows = admit(layout, messages, self._transport, self._seed)
        cargo = cargo_of(flows, messages, self._scene.packet)
        travelled = travel(self._scene, layout, messages, flows, cargo, self._transport, self._seed)
        receivers, count = travelled.figures.receivers, int(unit[-1]) + 1
        begin = np.searchsorted(unit, np.arange(count + 1))
        unit_of_flow, of_unit_ps = unit[flows.message], release_ps if apart else np.zeros(1, dtype=np.int64)
        seen = [
            passages(fabric, arrivals, travelled.packets, unit_of_flow, of_unit_ps, width_ps)
            for arrivals in (travelled.at_hosts, travelled.inside)
        ]
        at_hosts = seen[0]
        rest_ps = remaining_ps(fabric, self._rate_bps, travelled.packets, receivers, at_hosts.link, at_hosts.tag)
        rest_ps = np.concatenate([rest_ps, np.full(len(seen[1].link), -1)])
        of_link = np.concatenate([part.unit for part in seen])
        links = np.lexsort((np.concatenate([part.link for part in seen]), of_link))
        flow_end_ps = receivers["end_ps"] - of_unit_ps[unit_of_flow]
        first_flow = np.flatnonzero(np.diff(flows.message, prepend=-1))
        queue_begin, queue_time_ps, queue_ps = _queues(seen, count, width_ps)

        def passed(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in seen])[links]

        return Units(
            message_begin=begin,
            start_ps=release_ps - of_unit_ps[unit],
            end_ps=np.maximum.reduceat(flow_end_ps, first_flow),
            flow_begin=np.searchsorted(unit_of_flow, np.arange(count + 1)),
            message=flows.message - begin[unit_of_flow],
            piece=flows.id - messages.task[flows.message] * self._stride,
            bytes=flows.bytes,
            packets=np.diff(cargo.first),
            flow_end_ps=flow_end_ps,
            reordered=receivers["reordered"],
            link_begin=np.searchsorted(of_link[links], np.arange(count + 1)),
            link=passed("link"),
            first_ps=passed("first_ps"),
            last_ps=passed("last_ps"),
            link_packets=passed("packets"),
            link_bytes=passed("bytes"),
            busy_ps=passed("busy_ps"),
            longest_ps=passed("longest_ps"),
            rest_ps=rest_ps[links],
            queue_begin=queue_begin,
            queue_time_ps=queue_time_ps,
            queue_ps=queue_ps,
        )

    def flows_of(self, tasks: np.ndarray, release_ps: np.ndarray) -> list[list[tuple[int, tuple[int, ...]]]]:
        """For each message the payload and links of its flows; the links of all paths if packets choose their path."""
        layout, fabric = self._layout, self._layout.fabric
        messages = self._messages(tasks, release_ps)
        flows = admit(layout, messages, self._transport, self._seed)
        answers: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in tasks]
        first, last = messages.link.tolist(), messages.exit.tolist()
        for message, size, route in zip(
            flows.message.tolist(), flows.bytes.tolist(), flows.route.tolist(), strict=True
        ):
            path = (first[message],)
            if first[message] != last[message]:
                routes = self._usable(messages, message) if route < 0 else np.array([route])
                links = fabric.route_links[routes]
                path = (*path, *dict.fromkeys(links[links >= 0].tolist()), last[message])
            answers[message].append((size, path))
        return answers

    def _messages(self, tasks: np.ndarray, release_ps: np.ndarray) -> Messages:
        """The messages of `tasks`, numbered from 0, with the draws that they have in the run."""
        layout = self._layout
        messages = placed(layout.columns, layout.keys, tasks, release_ps, self._hosts, layout.fabric)
        return messages._replace(task=np.arange(len(tasks), dtype=np.int64))

    def _usable(self, messages: Messages, message: int) -> np.ndarray:
        """Usable routes of a message, as rows of `FabricArrays.route_links`."""
        fabric, row = self._layout.fabric, messages.usable[message]
        choices = fabric.usable[fabric.usable_begin[row] : fabric.usable_begin[row + 1]]
        return fabric.route_begin[messages.pair[message]] + choices

    def _longest_ps(self, tasks: np.ndarray) -> int:
        """Upper bound in ps of a message's time alone: as if each link began after the link before had served all."""
        delay_ps = self._transport.start_delay if isinstance(self._transport, EtherealConfig) else 0
        fabric, packet = self._layout.fabric, self._scene.packet
        size = int(self._layout.columns.bytes[tasks].max())
        wire = size + (size // packet.payload + self._stride + 1) * (packet.header + 1)
        slowest = int(fabric.rate_bps[fabric.rate_bps > 0].min())
        once_ps = 8 * 10**12 * wire // slowest + size // packet.payload + self._stride + int(fabric.delay_ps.max()) + 1
        return delay_ps + (2 + fabric.route_links.shape[1]) * once_ps


def _queues(seen: list[Passages], units: int, width_ps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First queue of each unit, then times and lengths of all queues, unit by unit in the order of time."""
    of_queue, time_ps, queue_ps = (
        np.concatenate([getattr(part, name) for part in seen]) for name in ("queue_unit", "queue_time_ps", "queue_ps")
    )
    order = np.lexsort((time_ps, of_queue))
    begin = np.searchsorted(of_queue[order], np.arange(units + 1))
    time_ps, queue_ps, begin = thin(time_ps[order], queue_ps[order], begin, width_ps)
    return begin, time_ps, queue_ps
