"""What leaves the hosts: which packet when, and which way it takes."""

from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.draws import Purpose
from netsim.engine.compiled.draws import draw, stream
from netsim.engine.compiled.fabric import FabricArrays
from netsim.engine.compiled.service import service_ps
from netsim.transport.config import FlowletConfig, TransportConfig

_FIXED, _RANDOM, _ROUND_ROBIN, _ROTATION, _FLOWLET = range(5)
_RULES = {
    "spray_random": (_RANDOM, Purpose.SPRAY_PATH),
    "spray_round_robin": (_ROUND_ROBIN, Purpose.SPRAY_START),
    "drb": (_ROTATION, Purpose.ROTATION_START),
    "flowlet": (_FLOWLET, Purpose.FLOWLET_PATH),
}


class Rule(NamedTuple):
    """How a packet's way is chosen.

    Args:
        kind: One of the kinds above.
        state: State of its draws.
        gap_ps: Shortest pause that begins a flowlet.
    """

    kind: int
    state: np.uint64
    gap_ps: int


def rule_of(transport: TransportConfig, seed: int) -> Rule:
    """The rule of a transport."""
    kind, purpose = _RULES.get(transport.kind, (_FIXED, Purpose.ECMP_PATH))
    gap_ps = transport.gap if isinstance(transport, FlowletConfig) else 0
    return Rule(kind, np.uint64(stream(seed, purpose)), gap_ps)


class Senders(NamedTuple):
    """Rings of the hosts' links. F flows, L links.

    Args:
        order: [F] flows by link and in the order in which they join its ring.
        begin: [L + 1] begin of each link in `order`.
        join_ps: [F] when each of `order` joins.
        round_robin: Flows take turns.
    """

    order: np.ndarray
    begin: np.ndarray
    join_ps: np.ndarray
    round_robin: bool


class Cargo(NamedTuple):
    """What flows carry. F flows.

    Args:
        pair: [F] pair of leaves.
        way: [F] way of all packets, -1 if each chooses.
        packet: [F + 1] first packet of each flow; packets are numbered by (flow, place in the flow).
        full_bytes: A full packet on the wire.
        last_bytes: [F] the last packet of each flow on the wire.
    """

    pair: np.ndarray
    way: np.ndarray
    packet: np.ndarray
    full_bytes: int
    last_bytes: np.ndarray


@njit(cache=True)
def inject(
    fabric: FabricArrays,
    rule: Rule,
    senders: Senders,
    cargo: Cargo,
    leaf_of_pair: np.ndarray,
    leave_ps: np.ndarray,
    packet: np.ndarray,
    way: np.ndarray,
) -> None:
    """Lets every host's ring go round until it is empty.

    Args:
        fabric: Rates and usable ways.
        rule: How packets choose.
        senders: The rings.
        cargo: The flows.
        leaf_of_pair: Destination leaf of each pair of leaves.
        leave_ps: Filled in, link by link: when each packet begins to leave.
        packet: Filled in: its number.
        way: Filled in, by packet: the way it takes.
    """
    epochs = len(fabric.epoch_ps)
    sent = np.zeros(len(cargo.way), dtype=np.int64)
    left_ps = np.zeros(len(cargo.way) if rule.kind == _FLOWLET else 0, dtype=np.int64)
    to_leaf = np.zeros(leaf_of_pair.max() + 1, dtype=np.int64)
    ring = np.empty(np.diff(senders.begin).max(), dtype=np.int64)
    place = 0
    for link in range(len(fabric.delay_ps)):
        joining, all_joined = senders.begin[link], senders.begin[link + 1]
        size = all_joined - joining
        if not size:
            continue
        head = waiting = count = epoch = now = 0
        to_leaf[:] = 0
        change, last_change = fabric.change_begin[link], fabric.change_begin[link + 1] - 1
        full_ps = service_ps(cargo.full_bytes, max(1, fabric.rate_bps[change]))
        while waiting or joining < all_joined:
            if not waiting:
                now = max(now, senders.join_ps[joining])
            while joining < all_joined and senders.join_ps[joining] <= now:
                tail = head + waiting
                ring[tail - size if tail >= size else tail] = senders.order[joining]
                waiting, joining = waiting + 1, joining + 1
            flow = ring[head]
            serial = sent[flow]
            number = cargo.packet[flow] + serial
            sent[flow] += 1
            while epoch + 1 < epochs and fabric.epoch_ps[epoch + 1] <= now:
                epoch += 1
            pair = cargo.pair[flow]
            count += 1
            chosen = cargo.way[flow]
            if rule.kind != _FIXED:
                row = pair * epochs + epoch
                begin = fabric.usable_begin[row]
                choices = np.uint64(fabric.usable_begin[row + 1] - begin)
                turn = np.uint64(0)
                if rule.kind == _RANDOM:
                    turn = draw(rule.state, flow_id[flow], serial)
                chosen = fabric.way_begin[pair] + fabric.usable[begin + np.int64(turn % choices)]
