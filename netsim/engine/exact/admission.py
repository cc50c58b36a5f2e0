"""From messages to flows, by each transport's rule; all messages at once, in the order of their flows' ids.

The rule of `netsim.transport.ethereal` is applied here for all hosts and moments at once.
"""

from typing import NamedTuple

import numpy as np

from netsim.draws import Purpose
from netsim.engine import _core
from netsim.engine.exact.hashes import crc32_hashes, drawn_turns, draws
from netsim.engine.exact.layout import Layout
from netsim.engine.exact.messages import Messages, numbers_of
from netsim.transport.config import EcmpConfig, EtherealConfig, SubflowsConfig, TransportConfig


class Groups(NamedTuple):
    """Groups of messages of one size that a host releases in one instant to one leaf, or that have one route only."""

    member: np.ndarray  # messages, group by group, by index
    begin: np.ndarray  # begin of each group in `member`, and the end of the last
    route_begin: np.ndarray  # begin of each group in `route`, and the end of the last
    route: np.ndarray  # routes that a group may use, by their place among all of its pair of leaves


def balance(layout: Layout, messages: Messages, transport: EtherealConfig, seed: int) -> tuple[np.ndarray, ...]:
    """Cuts and balances all messages; returns the fields of `netsim.engine.exact.admission.Flows`."""
    groups, turn = _groups_of(layout, messages, transport, seed)
    equal = transport.pieces == "equal"
    pieces = np.ones(len(messages.task), dtype=np.int64)
    nowhere = np.empty(0, dtype=np.int64)
    _core.cut(groups, messages.bytes, equal, nowhere, nowhere, nowhere, pieces)
    begin = np.cumsum(pieces) - pieces
    message = np.repeat(np.arange(len(pieces)), pieces)
    piece = np.arange(len(message)) - begin[message]
    size_bytes, route = messages.bytes[message], layout.fabric.route_begin[messages.pair[message]]
    _core.cut(groups, messages.bytes, equal, begin, size_bytes, route, pieces)
    identity, key = numbers_of(messages, message, piece, layout.most_paths)
    delay_ps = np.zeros_like(identity)
    if transport.start_delay:
        drawn = draws(seed, Purpose.START_DELAY, key, delay_ps)
        delay_ps = (drawn % np.uint64(transport.start_delay + 1)).astype(np.int64)
    return identity, key, message, size_bytes, route, delay_ps, turn[message] if len(turn) else turn


def _groups_of(layout: Layout, messages: Messages, transport: EtherealConfig, seed: int) -> tuple[Groups, np.ndarray]:
    """The groups in the order of cutting, and each message's turn at its host; no turns if the nic decides."""
    choice = np.diff(layout.fabric.route_begin)[messages.pair] > 1
    groups = _by_number(layout, messages, choice)
    first = groups.member[groups.begin[:-1]]
    if transport.order == "staggered":
        ahead = _places_ahead(layout, messages)
        _core.sort_members(groups, np.where(choice, ahead, 0))
        _take_routes_in_turn(groups, first, layout, messages)
        return groups, _leaves_ahead(layout, messages, ahead)
    if transport.randomise:
        drawn = drawn_turns(seed, Purpose.ETHEREAL_FLOWS, messages.key)
        _core.sort_members(groups, np.where(choice, drawn, 0))
        _core.shuffle_routes(groups, messages.key[first], seed, Purpose.ETHEREAL_PATHS)
    if transport.order == "published":
        return groups, _leaf_by_leaf(groups, messages.task[first], messages.key[first], seed)
    return groups, np.empty(0, dtype=np.int64)


def _by_number(layout: Layout, messages: Messages, choice: np.ndarray) -> Groups:
    """The groups of all messages, with messages and routes in the order of their numbers."""
    fabric = layout.fabric
    keys = messages.bytes, np.where(choice, messages.pair, -1), messages.release_ps, messages.link
    member = np.lexsort(keys)
    changes = np.ones(len(member) + 1, dtype=bool)
    changes[1:-1] = np.any([key[member[1:]] != key[member[:-1]] for key in keys], axis=0)
    begin = np.flatnonzero(changes) if len(member) else np.zeros(1, dtype=np.int64)
    row = messages.usable[member[begin[:-1]]]
    count = fabric.usable_begin[row + 1] - fabric.usable_begin[row]
    route_begin = np.concatenate([[0], np.cumsum(count)])
    place = np.arange(route_begin[-1]) - np.repeat(route_begin[:-1] - fabric.usable_begin[row], count)
    return Groups(member, begin, route_begin, fabric.usable[place])


def _leaf_by_leaf(groups: Groups, task: np.ndarray, drawn_by: np.ndarray, seed: int) -> np.ndarray:
    """Turn of each message at its host, with the groups in shuffled order."""
    order = np.lexsort((task, drawn_turns(seed, Purpose.ETHEREAL_LEAVES, drawn_by)))
    size = np.diff(groups.begin)
    begin = np.empty_like(size)
    begin[order] = np.cumsum(size[order]) - size[order]
    turn = np.empty_like(groups.member)
    turn[groups.member] = np.arange(len(turn)) + np.repeat(begin - groups.begin[:-1], size)
    return turn


def _places_ahead(layout: Layout, messages: Messages) -> np.ndarray:
    """Distance from the source's place on its leaf to the destination's on its own, modulo the number of places."""
    place = layout.place
    return (place[messages.dst_host] - place[messages.src_host]) % (place.max() + 1)


def _leaves_ahead(layout: Layout, messages: Messages, ahead: np.ndarray) -> np.ndarray:
    """Turn of each message: by the distance in places, `ahead`, then by the distance in leaves."""
    leaf = layout.fabric.leaf
    leaves = leaf.max() + 1
    return ahead * leaves + (leaf[messages.dst_host] - leaf[messages.src_host]) % leaves


def _take_routes_in_turn(groups: Groups, first: np.ndarray, layout: Layout, messages: Messages) -> None:
    """Orders routes so that consecutive ones use consecutive links up; `first` is a message of each group."""
    src, base = messages.src_host[first], layout.fabric.route_begin[messages.pair[first]]
    leaf, links = layout.fabric.leaf[src], len(layout.fabric.delay_ps)
    _core.turn_routes(groups, base, layout.steps, layout.stride, links, leaf, layout.place[src])


class Flows(NamedTuple):
    """Flows by id. Arrays with an entry a flow."""

    id: np.ndarray  # as in `netsim.transport.protocol.Flow`
    key: np.ndarray  # as in `netsim.transport.protocol.Transport.key_of`
    message: np.ndarray  # index of its message
    bytes: np.ndarray  # payload
    route: np.ndarray  # route of all its packets, as a row of `FabricArrays.route_links`; -1 if each packet chooses
    delay_ps: np.ndarray  # how long after the release it joins the others of its host
    # Sort key, before the flow's number, among flows that its host releases together; empty: the nic decides
    turn: np.ndarray


def admit(layout: Layout, messages: Messages, transport: TransportConfig, seed: int) -> Flows:
    """The flows of all messages, as `Transport.admit` would make them."""
    if isinstance(transport, EtherealConfig):
        return Flows(*balance(layout, messages, transport, seed))
    parts = transport.count if isinstance(transport, SubflowsConfig) else 1
    stride = parts if isinstance(transport, SubflowsConfig) else layout.most_paths
    pieces = np.minimum(messages.bytes, parts)
    message = np.repeat(np.arange(len(pieces)), pieces)
    part = np.arange(len(message)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    each, longer = np.divmod(messages.bytes[message], parts)
    src, dst = messages.src[message], messages.dst[message]
    match transport:
        case EcmpConfig(hash="crc32"):
            route = _hashed(layout, messages, message, crc32_hashes(seed, src, dst))
        case EcmpConfig():
            route = _hashed(layout, messages, message, draws(seed, Purpose.ECMP_PATH, src, dst))
        case SubflowsConfig():
            route = _hashed(layout, messages, message, draws(seed, Purpose.SUBFLOW_PATH, src << 32 | dst, part))
        case _:
            route = np.full(len(message), -1)
    numbers, size_bytes = numbers_of(messages, message, part, stride), each + (part < longer)
    return Flows(*numbers, message, size_bytes, route, np.zeros_like(message), np.empty(0, dtype=np.int64))


def _hashed(layout: Layout, messages: Messages, message: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """The route of each flow: its hash picks one of the usable routes."""
    begin = layout.fabric.usable_begin
    row = messages.usable[message]
    count = (begin[row + 1] - begin[row]).astype(np.uint64)
    choice = layout.fabric.usable[begin[row] + (hashes % count).astype(np.int64)]
    return layout.fabric.route_begin[messages.pair[message]] + choice
