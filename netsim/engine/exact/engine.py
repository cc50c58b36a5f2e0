"""The exact engine: open loops link after link, without a calendar, in compiled code."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.engine.compiled.annotations import Records
from netsim.engine.compiled.queue_series import Longest, no_queues, series_of
from netsim.engine.exact.admission import Flows, admit
from netsim.engine.exact.choice import rule_of
from netsim.engine.exact.injection import Cargo, Departures, cargo_of, inject
from netsim.engine.exact.layout import Layout, layout_of
from netsim.engine.exact.messages import UNKNOWN, Messages, release_times
from netsim.engine.exact.refusal import refusal
from netsim.engine.exact.rings import rings_of
from netsim.engine.exact.stages import RECEIVER, Arrivals, Packets, remaining_ps, serve
from netsim.engine.limits import Clock, Pulse, Waiting, reached
from netsim.engine.protocol import FLOW, LINK, Losses, Outcome, Scene
from netsim.transport.config import TransportConfig
from netsim.units import format_time


class ExactEngine:
    """One run, equal to that of the reference engine to the last bit.

    Args:
        scene: Tasks and fabric.
        transport: Path choice.
        seed: Seed of the run.
        report: Called now and then with how far the run is.

    Raises:
        ValueError: The run is not for this engine (`netsim.engine.exact.refusal`).
    """

    def __init__(
        self,
        scene: Scene,
        transport: TransportConfig,
        seed: int,
        report: Callable[[Pulse], None] | None = None,
    ) -> None:
        reason = refusal(scene, transport)
        if reason is not None:
            raise ValueError(reason)
        self._scene, self._transport, self._seed = scene, transport, seed
        self._clock = Clock(scene.limits, report)

    def run(self) -> Outcome:
        """Simulates until all tasks are done.

        Raises:
            InputError: The run has reached a limit. The wall time is looked at between the links' stages.
        """
        layout = layout_of(self._scene)
        assert layout.messages is not None, "refused"
        flows = admit(layout, layout.messages, self._transport, self._seed)
        cargo = cargo_of(flows, layout.messages, self._scene.packet)
        travelled = self._travel(layout, layout.messages, flows, cargo)
        records = np.empty(len(flows.id), dtype=FLOW)
        _describe(records, flows, layout.messages, cargo, travelled.receivers)
        task_end_ps = _task_ends(layout, layout.messages, flows, travelled.receivers["end_ps"])
        self._refuse_late(task_end_ps)
        return Outcome(
            completion_ps=int(task_end_ps.max(initial=0)),
            task_end_ps=task_end_ps,
            packets=int(cargo.first[-1]),
            packet_hops=travelled.hops,
            control_hops=0,
            losses=Losses(),
            flows=records.view(np.recarray),
            links=travelled.links.view(np.recarray),
            queues=series_of(travelled.longest),
            last_sent=travelled.last_sent,
        )

    def _travel(self, layout: Layout, messages: Messages, flows: Flows, cargo: Cargo) -> "_Travelled":
        """Sends all packets through the fabric; a function of its own, so that their arrays are freed at its end."""
        scene, fabric = self._scene, layout.fabric
        assert layout.inner is not None, "refused"
        bits, count = len(layout.steps).bit_length(), len(fabric.delay_ps)
        rings = rings_of(flows, messages, scene.nic, scene.topology.hosts, count, self._seed)
        self._look_at_clock()
        departures = inject(
            fabric, rule_of(self._transport, self._seed), rings, cargo, layout.leaf, bits, layout.stride
        )
        packets, receivers = _packets(layout, cargo, bits), _receivers(flows, messages)
        at_hosts = _at_hosts(layout, messages, flows, cargo, departures)
        inside = _in_the_fabric(layout, cargo, departures, receivers)
        hosts_links = np.flatnonzero(np.diff(at_hosts.begin))
        last = departures.tag[at_hosts.begin[hosts_links + 1] - 1]
        nominal_bps = np.array(scene.rates.initial, dtype=np.int64)
        rest_ps = remaining_ps(fabric, nominal_bps, packets, receivers, hosts_links, last)
        record, longest = np.zeros(count, dtype=LINK), no_queues()
        self._look_at_clock()
        serve(fabric, hosts_links, at_hosts, inside, packets, receivers, record, longest)
        self._look_at_clock()
        serve(fabric, np.concatenate([layout.inner, fabric.down]), inside, inside, packets, receivers, record, longest)
        last_sent = dict(zip(hosts_links.tolist(), rest_ps.tolist(), strict=True))
        return _Travelled(receivers, record, longest, last_sent, len(at_hosts.tag) + len(inside.tag))

    def _look_at_clock(self) -> None:
        """Links are served one after the other, each for the whole run, so that no task is done before the end."""
        scene = self._scene
        if self._clock.is_over(pulse := Pulse(0, 0, len(scene.tasks))):
            first = next(task for task in scene.tasks if not task.after)
            why = "the exact engine serves one link after the other and has not come to its last"
            raise reached(scene.limits, "wall", pulse, Waiting(first.src, first.dst, first.bytes, why))

    def _refuse_late(self, task_end_ps: np.ndarray) -> None:
        limit_ps = self._scene.limits.simulated
        late = np.flatnonzero(task_end_ps > limit_ps)
        if len(late):
            first = self._scene.tasks[int(late[0])]
            why = f"its last byte arrives at {format_time(int(task_end_ps[late[0]]))}"
            pulse = Pulse(limit_ps, len(task_end_ps) - len(late), len(task_end_ps))
            waiting = Waiting(first.src, first.dst, first.bytes, why)
            raise reached(self._scene.limits, "simulated", pulse, waiting)


class _Travelled(NamedTuple):
    """Figures of all packets; see `Outcome`."""

    receivers: np.ndarray
    links: np.ndarray
    longest: Longest
    last_sent: dict[int, int]
    hops: int


def _packets(layout: Layout, cargo: Cargo, bits: int) -> Packets:
    count, size_bytes = np.diff(cargo.first), np.empty(0, dtype=np.int64)
    if (cargo.last_bytes != cargo.full_bytes).any():
        size_bytes = np.full(cargo.first[-1], cargo.full_bytes, dtype=np.int64)
        size_bytes[cargo.first[1:] - 1] = cargo.last_bytes
    flow = np.repeat(np.arange(len(count), dtype=np.int32), count)
    return Packets(bits, layout.steps, flow, size_bytes, cargo.full_bytes)


def _receivers(flows: Flows, messages: Messages) -> np.ndarray:
    receivers = np.zeros(len(flows.id), dtype=RECEIVER)
    receivers["exit"], receivers["highest"] = messages.exit[flows.message], -1
    receivers["end_ps"] = messages.release_ps[flows.message]
    return receivers


def _at_hosts(layout: Layout, messages: Messages, flows: Flows, cargo: Cargo, departures: Departures) -> Arrivals:
    """Packets at the first links, those of their hosts."""
    links = len(layout.fabric.delay_ps)
    counts = _sums(messages.link[flows.message], np.diff(cargo.first), links)
    begin = np.concatenate([[0], np.cumsum(counts)])
    return Arrivals(begin, begin[1:], departures.leave_ps, departures.tag)


def _in_the_fabric(layout: Layout, cargo: Cargo, departures: Departures, receivers: np.ndarray) -> Arrivals:
    """Room for packets at all other links."""
    links = len(layout.fabric.delay_ps)
    counts = _sums(receivers["exit"], np.diff(cargo.first), links)
    counts[layout.fabric.inside] = 0
    for link in layout.fabric.way_links.T:
        counts += _sums(link[link >= 0], departures.by_way[link >= 0], links)
    begin = np.concatenate([[0], np.cumsum(counts)])
    room = np.empty(begin[-1], dtype=np.int64)
    return Arrivals(begin, begin[:-1].copy(), room, np.empty_like(room))


def _sums(index: np.ndarray, amounts: np.ndarray, size: int) -> np.ndarray:
    """Sums of amounts by index; exact below 2**53."""
    return np.bincount(index, weights=amounts, minlength=size).astype(np.int64)


def _task_ends(layout: Layout, messages: Messages, flows: Flows, flow_end_ps: np.ndarray) -> np.ndarray:
    """The end of each task, from the ends of its flows."""
    columns = layout.columns
    end_ps = np.full(len(columns.bytes), UNKNOWN, dtype=np.int64)
    if len(flow_end_ps):
        begin = np.flatnonzero(np.diff(flows.message, prepend=-1))
        end_ps[messages.task] = np.maximum.reduceat(flow_end_ps, begin)
    release_times(columns.delay_ps, columns.bytes, columns.after_begin, columns.after, end_ps)
    return end_ps


@njit(cache=True)
def _describe(records: Records, flows: Flows, messages: Messages, cargo: Cargo, receivers: Records) -> None:
    """Fills in an array of `FLOW`."""
    for flow in range(len(records)):
        record, message = records[flow], flows.message[flow]
        record.id, record.task = flows.id[flow], messages.task[message]
        record.src, record.dst = messages.src[message], messages.dst[message]
        record.bytes, record.packets = flows.bytes[flow], cargo.first[flow + 1] - cargo.first[flow]
        record.start_ps, record.end_ps = messages.release_ps[message], receivers[flow].end_ps
        record.reordered, record.retransmitted = receivers[flow].reordered, 0
