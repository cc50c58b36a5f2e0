"""The route of all packets of some messages through the fabric."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from netsim.engine import _core
from netsim.engine.core.fabric import FabricArrays
from netsim.engine.exact.admission import Flows
from netsim.engine.exact.injection import Cargo, Departures, inject, rings_of
from netsim.engine.exact.layout import Layout
from netsim.engine.exact.messages import Messages
from netsim.engine.protocol import LINK, Scene
from netsim.engine.queue_series import Longest, no_queues
from netsim.transport.config import TransportConfig

RECEIVER = np.dtype([(name, np.int64) for name in ("exit", "highest", "end_ps", "reordered")])
"""A flow at its receiver.

Last link of its paths; highest number of a packet that has arrived; latest arrival; packets that arrived after one with
a higher number.
"""


class Packets(NamedTuple):
    """Packets by their tags: number of the packet << `bits` | index in `steps` of its next link.

    Packets are numbered by (flow, place in the flow).
    """

    bits: int  # enough for the entries of `steps`
    steps: np.ndarray  # links of all routes, one after the other
    flow: np.ndarray  # flow of each packet
    size_bytes: np.ndarray  # bytes on the wire of each packet; empty if all have `full_bytes`
    full_bytes: int  # a full packet on the wire


class Arrivals(NamedTuple):
    """Arrivals of packets, link by link; the segment of a link is full before the link is served."""

    begin: np.ndarray  # begin of each link, and the end of the last
    fill: np.ndarray  # first free entry of each link
    time_ps: np.ndarray  # when a packet arrives
    tag: np.ndarray  # its tag


class Figures(NamedTuple):
    """Figures of all packets, as in an outcome."""

    receivers: np.ndarray  # array of `RECEIVER`, by flow
    links: np.ndarray  # array of `LINK`
    longest: Longest  # longest queue over time
    last_sent: dict[int, int]  # by link of a host, in ps, the rest of its last data packet's passage
    hops: int  # packets times links


class Travelled(NamedTuple):
    """The packets after their passage through the fabric."""

    figures: Figures  # their figures
    packets: Packets  # the packets
    at_hosts: Arrivals  # packets at the hosts' links, each link's in the order of arrival
    inside: Arrivals  # packets at all other links, likewise


def travel(
    scene: Scene,
    layout: Layout,
    messages: Messages,
    flows: Flows,
    cargo: Cargo,
    transport: TransportConfig,
    seed: int,
    pause: Callable[[], None] = lambda: None,
) -> Travelled:
    """Sends all packets through the fabric; `pause` is called between the stages."""
    fabric = layout.fabric
    assert layout.inner is not None, "refused"
    bits, count = len(layout.steps).bit_length(), len(fabric.delay_ps)
    rings = rings_of(flows, messages, scene.nic, scene.topology.hosts, count, seed)
    pause()
    departures = inject(fabric, transport, seed, rings, cargo, layout.leaf, bits, layout.stride)
    packets, receivers = _packets(layout, cargo, bits), _receivers(flows, messages)
    at_hosts = _at_hosts(layout, messages, flows, cargo, departures)
    inside = _in_the_fabric(layout, cargo, departures, receivers)
    hosts_links = np.flatnonzero(np.diff(at_hosts.begin))
    last = departures.tag[at_hosts.begin[hosts_links + 1] - 1]
    nominal_bps = np.array(scene.rates.initial, dtype=np.int64)
    rest_ps = remaining_ps(fabric, nominal_bps, packets, receivers, hosts_links, last)
    record, longest = np.zeros(count, dtype=LINK), no_queues()
    pause()
    _core.serve(fabric, hosts_links, at_hosts, inside, packets, receivers, record, longest)
    pause()
    inner = np.concatenate([layout.inner, fabric.down])
    _core.serve(fabric, inner, inside, inside, packets, receivers, record, longest)
    last_sent = dict(zip(hosts_links.tolist(), rest_ps.tolist(), strict=True))
    figures = Figures(receivers, record, longest, last_sent, len(at_hosts.tag) + len(inside.tag))
    return Travelled(figures, packets, at_hosts, inside)


def remaining_ps(
    fabric: FabricArrays,
    rate_bps: np.ndarray,
    packets: Packets,
    receivers: np.ndarray,
    link: np.ndarray,
    tag: np.ndarray,
) -> np.ndarray:
    """Remaining time in ps to the receiver of packets that have left links, without queues."""
    rest_ps = np.empty(len(link), dtype=np.int64)
    _core.remaining_ps(fabric, rate_bps, packets, receivers, link, tag, rest_ps)
    return rest_ps


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
    """Arrivals of packets at their first links, which are the links of their hosts."""
    links = len(layout.fabric.delay_ps)
    counts = _sums(messages.link[flows.message], np.diff(cargo.first), links)
    begin = np.concatenate([[0], np.cumsum(counts)])
    return Arrivals(begin, begin[1:], departures.leave_ps, departures.tag)


def _in_the_fabric(layout: Layout, cargo: Cargo, departures: Departures, receivers: np.ndarray) -> Arrivals:
    """Arrays with room for the arrivals at all other links."""
    links = len(layout.fabric.delay_ps)
    counts = _sums(receivers["exit"], np.diff(cargo.first), links)
    counts[layout.fabric.inside] = 0
    for link in layout.fabric.route_links.T:
        counts += _sums(link[link >= 0], departures.by_route[link >= 0], links)
    begin = np.concatenate([[0], np.cumsum(counts)])
    room = np.empty(begin[-1], dtype=np.int64)
    return Arrivals(begin, begin[:-1].copy(), room, np.empty_like(room))


def _sums(index: np.ndarray, amounts: np.ndarray, size: int) -> np.ndarray:
    """Sums of amounts by index; exact below 2**53."""
    return np.bincount(index, weights=amounts, minlength=size).astype(np.int64)
