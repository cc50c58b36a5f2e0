"""Injection: when each packet leaves its host, and which way it takes."""

from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.engine.compiled.fabric import FabricArrays
from netsim.engine.compiled.service import rate_step, service_ps
from netsim.engine.exact.admission import Flows
from netsim.engine.exact.choice import FIXED, FLOWLET, Rule, choose
from netsim.engine.exact.messages import Messages
from netsim.engine.exact.rings import Rings
from netsim.engine.exact.sorting import room_for
from netsim.engine.protocol import PacketConfig


class Cargo(NamedTuple):
    """The packets of flows. F flows; packets are numbered by (flow, place in the flow)."""

    key: np.ndarray  # [F] as in `netsim.transport.protocol.Transport.key_of`
    pair: np.ndarray  # [F] pair of leaves
    way: np.ndarray  # [F] way of all packets, -1 if each chooses
    first: np.ndarray  # [F + 1] first packet of each flow, and the number of packets
    full_bytes: int  # a full packet on the wire
    last_bytes: np.ndarray  # [F] the last packet of each flow on the wire


def cargo_of(flows: Flows, messages: Messages, config: PacketConfig) -> Cargo:
    """The packets of all flows."""
    before_last = (flows.bytes - 1) // config.payload
    return Cargo(
        flows.key,
        messages.pair[flows.message],
        flows.way,
        np.concatenate([[0], np.cumsum(before_last + 1)]),
        config.payload + config.header,
        flows.bytes - before_last * config.payload + config.header,
    )


class Departures(NamedTuple):
    """Packets at the hosts' links."""

    tag: np.ndarray  # tags of packets, link by link, in the order of departure: number << bits | way * stride
    leave_ps: np.ndarray  # when each of them begins to leave
    by_way: np.ndarray  # packets that take each way


@njit(cache=True)
def inject(
    fabric: FabricArrays, rule: Rule, rings: Rings, cargo: Cargo, leaf: np.ndarray, bits: int, stride: int
) -> Departures:
    """Serves every host's ring until it is empty."""
    epochs, packets = len(fabric.epoch_ps), cargo.first[-1]
    tag, leave_ps = np.empty(packets, dtype=np.int64), np.empty(packets, dtype=np.int64)
    by_way = np.zeros(len(fabric.way_links), dtype=np.int64)
    following = cargo.first[:-1].copy()
    way_of = cargo.way.copy()
    left_ps = np.zeros(len(following) if rule.kind == FLOWLET else 0, dtype=np.int64)
    leaves = 0
    for pair in range(len(leaf)):
        leaves = max(leaves, leaf[pair] + 1)
    to_leaf = np.zeros(leaves, dtype=np.int64)
    ring = np.empty_like(room_for(rings.begin).index)
    out = 0
    for link in range(len(fabric.delay_ps)):
        joining, all_joined = rings.begin[link], rings.begin[link + 1]
        size = all_joined - joining
        if not size:
            continue
        head = waiting = count = epoch = now = 0
        to_leaf[:] = 0
        step = fabric.change_begin[link]
        full_ps = service_ps(cargo.full_bytes, max(1, fabric.rate_bps[step]))
        while waiting or joining < all_joined:
            if not waiting:
                now = max(now, rings.join_ps[joining])
            while joining < all_joined and rings.join_ps[joining] <= now:
                ring[_wrapped(head + waiting, size)] = rings.order[joining]
                waiting, joining = waiting + 1, joining + 1
            flow = ring[head]
            packet = following[flow]
            following[flow] += 1
            serial, last = packet - cargo.first[flow], following[flow] == cargo.first[flow + 1]
            count += 1
            way = way_of[flow]
            if rule.kind != FIXED:
                pair = cargo.pair[flow]
                to_leaf[leaf[pair]] += 1
                while epoch + 1 < epochs and fabric.epoch_ps[epoch + 1] <= now:
                    epoch += 1
                begin, end = fabric.usable_begin[pair * epochs + epoch], fabric.usable_begin[pair * epochs + epoch + 1]
                if rule.kind != FLOWLET or not serial or now - left_ps[flow] > rule.gap_ps:
                    sent = count, to_leaf[leaf[pair]]
                    turn = choose(rule, end - begin, cargo.key[flow], serial, link, leaf[pair], sent)
                    way = fabric.way_begin[pair] + fabric.usable[begin + turn]
                if rule.kind == FLOWLET:
                    way_of[flow], left_ps[flow] = way, now
            tag[out], leave_ps[out] = packet << bits | way * stride, now
            by_way[way] += 1
            out += 1
            if rate_step(fabric, link, step, now) != step:
                step = rate_step(fabric, link, step, now)
                full_ps = service_ps(cargo.full_bytes, fabric.rate_bps[step])
            size_bytes = cargo.last_bytes[flow] if last else cargo.full_bytes
            now += full_ps if size_bytes == cargo.full_bytes else service_ps(size_bytes, fabric.rate_bps[step])
            if rings.round_robin and not last:
                ring[_wrapped(head + waiting, size)] = flow
            if rings.round_robin or last:
                head = _wrapped(head + 1, size)
            waiting -= last
    return Departures(tag, leave_ps, by_way)


@njit(cache=True)
def _wrapped(place: int, size: int) -> int:
    return place - size if place >= size else place
