"""Injection: when each packet leaves its host, and which route it takes."""

from typing import NamedTuple

import numpy as np

from netsim.draws import Purpose
from netsim.engine import _core
from netsim.engine.core.fabric import FabricArrays
from netsim.engine.exact.admission import Flows
from netsim.engine.exact.hashes import drawn_turns
from netsim.engine.exact.messages import Messages
from netsim.engine.protocol import NicConfig, PacketConfig
from netsim.transport.config import FlowletConfig, TransportConfig

_PINNED, _SPRAY_RANDOM, _SPRAY_ROUND_ROBIN, _ROTATION, _FLOWLET = range(5)
"""The first of `Choice` in `netsim/engine/core/records.hpp`."""
_RULES = {
    "spray_random": (_SPRAY_RANDOM, Purpose.SPRAY_PATH),
    "spray_round_robin": (_SPRAY_ROUND_ROBIN, Purpose.SPRAY_START),
    "drb": (_ROTATION, Purpose.ROTATION_START),
    "flowlet": (_FLOWLET, Purpose.FLOWLET_PATH),
}
KINDS = ("ecmp", "subflows", "ethereal", *_RULES)
"""Transports that choose a packet's route at its departure, independently of the fabric."""


class Cargo(NamedTuple):
    """The packets of flows. F flows; packets are numbered by (flow, place in the flow)."""

    key: np.ndarray  # [F] as in `netsim.transport.protocol.Transport.key_of`
    pair: np.ndarray  # [F] pair of leaves
    route: np.ndarray  # [F] route of all packets, -1 if each chooses
    first: np.ndarray  # [F + 1] first packet of each flow, and the number of packets
    full_bytes: int  # a full packet on the wire
    last_bytes: np.ndarray  # [F] the last packet of each flow on the wire


def cargo_of(flows: Flows, messages: Messages, config: PacketConfig) -> Cargo:
    """The packets of all flows."""
    before_last = (flows.bytes - 1) // config.payload
    return Cargo(
        flows.key,
        messages.pair[flows.message],
        flows.route,
        np.concatenate([[0], np.cumsum(before_last + 1)]),
        config.payload + config.header,
        flows.bytes - before_last * config.payload + config.header,
    )


class Rings(NamedTuple):
    """Rings of the hosts' links. F flows, L links."""

    order: np.ndarray  # [F] flows by link and in the order in which they join its ring
    begin: np.ndarray  # [L + 1] begin of each link in `order`, and the end of the last
    join_ps: np.ndarray  # [F] when each of `order` joins
    round_robin: bool  # flows take turns


def rings_of(flows: Flows, messages: Messages, nic: NicConfig, hosts: int, links: int, seed: int) -> Rings:
    """The rings of a run."""
    if len(flows.turn):
        turn = flows.turn
    elif nic.destinations == "random":
        turn = drawn_turns(seed, Purpose.DESTINATION_ORDER, flows.key)
    else:
        turn = ((messages.dst_host - messages.src_host) % hosts)[flows.message]
    link = messages.link[flows.message]
    begin = np.concatenate([[0], np.cumsum(np.bincount(link, minlength=links))])
    join_ps = messages.release_ps[flows.message] + flows.delay_ps
    order = np.empty(len(link), dtype=np.int64)
    _core.sort_rings(link, turn, join_ps, flows.delay_ps, begin, order)
    return Rings(order, begin, join_ps[order], nic.scheduling == "round_robin")


class Departures(NamedTuple):
    """Packets at the hosts' links."""

    tag: np.ndarray  # tags of packets, link by link, in the order of departure: number << bits | route * stride
    leave_ps: np.ndarray  # when each of them begins to leave
    by_route: np.ndarray  # packets that take each route


def inject(
    fabric: FabricArrays,
    transport: TransportConfig,
    seed: int,
    rings: Rings,
    cargo: Cargo,
    leaf: np.ndarray,
    bits: int,
    stride: int,
) -> Departures:
    """Serves every host's ring until it is empty."""
    choice, purpose = _RULES.get(transport.kind, (_PINNED, Purpose.ECMP_PATH))
    gap_ps = transport.gap if isinstance(transport, FlowletConfig) else 0
    tag = np.empty(cargo.first[-1], dtype=np.int64)
    departures = Departures(tag, np.empty_like(tag), np.zeros(len(fabric.route_links), dtype=np.int64))
    _core.inject(fabric, (choice, seed, purpose, gap_ps), rings, cargo, leaf, bits, stride, departures)
    return departures
