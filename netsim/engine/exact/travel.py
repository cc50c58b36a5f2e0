"""The way of all packets of some messages through the fabric."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from netsim.engine.compiled.queue_series import Longest, no_queues
from netsim.engine.exact.admission import Flows
from netsim.engine.exact.choice import rule_of
from netsim.engine.exact.injection import Cargo, Departures, inject
from netsim.engine.exact.layout import Layout
from netsim.engine.exact.messages import Messages
from netsim.engine.exact.rings import rings_of
from netsim.engine.exact.stages import RECEIVER, Arrivals, Packets, remaining_ps, serve
from netsim.engine.protocol import LINK, Scene
from netsim.transport.config import TransportConfig


class Figures(NamedTuple):
    """Figures of all packets; see `netsim.engine.protocol.Outcome`."""

    receivers: np.ndarray  # array of `RECEIVER`, by flow
    links: np.ndarray  # array of `LINK`
    longest: Longest  # longest queue over time
    last_sent: dict[int, int]  # see `Outcome`
    hops: int  # packets times links


class Travelled(NamedTuple):
    """What became of all packets."""

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
    """Sends all packets through the fabric."""
    fabric = layout.fabric
    assert layout.inner is not None, "refused"
    bits, count = len(layout.steps).bit_length(), len(fabric.delay_ps)
    rings = rings_of(flows, messages, scene.nic, scene.topology.hosts, count, seed)
    pause()
    departures = inject(fabric, rule_of(transport, seed), rings, cargo, layout.leaf, bits, layout.stride)
    packets, receivers = _packets(layout, cargo, bits), _receivers(flows, messages)
    at_hosts = _at_hosts(layout, messages, flows, cargo, departures)
    inside = _in_the_fabric(layout, cargo, departures, receivers)
    hosts_links = np.flatnonzero(np.diff(at_hosts.begin))
    last = departures.tag[at_hosts.begin[hosts_links + 1] - 1]
    nominal_bps = np.array(scene.rates.initial, dtype=np.int64)
    rest_ps = remaining_ps(fabric, nominal_bps, packets, receivers, hosts_links, last)
    record, longest = np.zeros(count, dtype=LINK), no_queues()
    pause()
    serve(fabric, hosts_links, at_hosts, inside, packets, receivers, record, longest)
    pause()
    serve(fabric, np.concatenate([layout.inner, fabric.down]), inside, inside, packets, receivers, record, longest)
    last_sent = dict(zip(hosts_links.tolist(), rest_ps.tolist(), strict=True))
    figures = Figures(receivers, record, longest, last_sent, len(at_hosts.tag) + len(inside.tag))
    return Travelled(figures, packets, at_hosts, inside)


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
