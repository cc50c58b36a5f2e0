"""`netsim.transport.ethereal` for all hosts and moments at once."""

from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.draws import Purpose
from netsim.engine.compiled.annotations import Integer
from netsim.engine.compiled.draws import draw, stream
from netsim.engine.exact.hashes import SIGN, draws
from netsim.engine.exact.layout import Layout
from netsim.engine.exact.messages import Messages
from netsim.engine.exact.sorting import room_for, sort
from netsim.transport.config import EtherealConfig


class Groups(NamedTuple):
    """Messages of one size that a host releases in one instant towards one leaf. Arrays of int64.

    Args:
        member: Messages, group by group, by index.
        begin: Begin of each group in `member`, and the end of the last.
        size_bytes: Payload of each message of a group.
        task: First task of each group.
        base: First of all ways of each group's pair of leaves.
        way_begin: Begin of each group in `way`, and the end of the last.
        way: Ways that a group may use.
    """

    member: np.ndarray
    begin: np.ndarray
    size_bytes: np.ndarray
    task: np.ndarray
    base: np.ndarray
    way_begin: np.ndarray
    way: np.ndarray


def balance(layout: Layout, messages: Messages, transport: EtherealConfig, seed: int) -> tuple[np.ndarray, ...]:
    """The fields of `netsim.engine.exact.admission.Flows`."""
    groups = _groups(layout, messages)
    if transport.randomise:
        flow_order = draws(seed, Purpose.ETHEREAL_FLOWS, messages.task, np.zeros_like(messages.task))
        _shuffle(groups, flow_order, np.uint64(stream(seed, Purpose.ETHEREAL_PATHS)))
    equal = transport.pieces == "equal"
    pieces = np.ones(len(messages.task), dtype=np.int64)
    nowhere = np.empty(0, dtype=np.int64)
    _cut(groups, equal, nowhere, nowhere, nowhere, pieces)
    begin = np.cumsum(pieces) - pieces
    message = np.repeat(np.arange(len(pieces)), pieces)
    piece = np.arange(len(message)) - begin[message]
    size_bytes, way = messages.bytes[message], layout.fabric.way_begin[messages.pair[message]]
    _cut(groups, equal, begin, size_bytes, way, pieces)
    identity = messages.task[message] * layout.most_paths + piece
    delay_ps = np.zeros_like(identity)
    if transport.start_delay:
        drawn = draws(seed, Purpose.START_DELAY, identity, delay_ps)
        delay_ps = (drawn % np.uint64(transport.start_delay + 1)).astype(np.int64)
    return identity, message, size_bytes, way, delay_ps


def _groups(layout: Layout, messages: Messages) -> Groups:
    """Groups of the messages that have a choice of ways."""
    fabric = layout.fabric
    choice = np.flatnonzero(np.diff(fabric.way_begin)[messages.pair] > 1)
    keys = messages.bytes[choice], messages.pair[choice], messages.release_ps[choice], messages.link[choice]
    order = np.lexsort(keys)
    changes = [key[order[1:]] != key[order[:-1]] for key in keys]
    begin = (
        np.flatnonzero(np.concatenate([[True], np.any(changes, axis=0), [True]])) if len(order) else np.zeros(1, int)
    )
    member = choice[order]
    first = member[begin[:-1]]
    row = messages.usable[first]
    count = fabric.usable_begin[row + 1] - fabric.usable_begin[row]
    way_begin = np.concatenate([[0], np.cumsum(count)])
    place = np.arange(way_begin[-1]) - np.repeat(way_begin[:-1] - fabric.usable_begin[row], count)
    base = fabric.way_begin[messages.pair[first]]
    way = fabric.usable[place] + np.repeat(base, count)
    return Groups(member, begin, messages.bytes[first], messages.task[first], base, way_begin, way)


@njit(cache=True)
def _shuffle(groups: Groups, flow_order: np.ndarray, path_order: np.uint64) -> None:
    """Orders the members and the ways of each group by draws.

    Args:
        groups: Are changed.
        flow_order: A draw for each message.
        path_order: State of the draws for ways.
    """
    for_members, for_ways = room_for(groups.begin), room_for(groups.way_begin)
    key = np.empty(max(len(for_members.key), len(for_ways.key)), dtype=np.int64)
    for group in range(len(groups.task)):
        member = groups.member[groups.begin[group] : groups.begin[group + 1]]
        for place in range(len(member)):
            key[place] = np.int64(flow_order[member[place]] ^ SIGN)
        sort(key[: len(member)], member, for_members)
        way = groups.way[groups.way_begin[group] : groups.way_begin[group + 1]]
        for place in range(len(way)):
            key[place] = np.int64(draw(path_order, groups.task[group], way[place] - groups.base[group]) ^ SIGN)
        sort(key[: len(way)], way, for_ways)


@njit(cache=True)
def _cut(
    groups: Groups, equal: bool, begin: np.ndarray, size_bytes: np.ndarray, way: np.ndarray, pieces: np.ndarray
) -> None:
    """Counts the pieces of messages, or fills in the flows that they are.

    Args:
        groups: The messages.
        equal: Pieces are equal; otherwise as few as possible.
        begin: First flow of each message; empty to count only.
        size_bytes: Payload of each flow.
        way: Way of each flow.
        pieces: Flows of each message.
    """
    for group in range(len(groups.task)):
        member = groups.member[groups.begin[group] : groups.begin[group + 1]]
        ways = groups.way[groups.way_begin[group] : groups.way_begin[group + 1]]
        each = groups.size_bytes[group]
        cut = len(member) % len(ways)
        whole = len(member) - cut
        if len(begin):
            for turn in range(whole):
                way[begin[member[turn]]] = ways[turn % len(ways)]
        for position in range(cut):
            message = member[whole + position]
            at = begin[message] if len(begin) else -1
            if equal:
                pieces[message] = _equal(position, cut, each, ways, at, size_bytes, way)
            else:
                pieces[message] = _minimal(position, cut, each, ways, at, size_bytes, way)


@njit(cache=True)
def _equal(
    position: Integer,
    flows: Integer,
    each: Integer,
    ways: np.ndarray,
    at: Integer,
    size_bytes: np.ndarray,
    way: np.ndarray,
) -> Integer:
    """Pieces of one of `flows` messages that continue the turn; the first becomes flow `at` unless that is -1."""
    pieces = len(ways) // np.gcd(flows, len(ways))
    shortest, longer = each // pieces, each % pieces
    if at >= 0:
        for piece in range(min(pieces, each)):
            size_bytes[at + piece] = shortest + (piece < longer)
            way[at + piece] = ways[(position * pieces + piece) % len(ways)]
    return min(pieces, each)


@njit(cache=True)
def _minimal(
    position: Integer,
    flows: Integer,
    each: Integer,
    ways: np.ndarray,
    at: Integer,
    size_bytes: np.ndarray,
    way: np.ndarray,
) -> Integer:
    """The same where the k-th way takes bytes [k, k + 1) * total / s of the flows laid end to end."""
    total, begin, end = each * flows, position * each, (position + 1) * each
    turn, pieces = begin * len(ways) // total, 0
    while begin < end:
        border = min(end, (turn + 1) * total // len(ways))
        if border > begin:
            if at >= 0:
                size_bytes[at + pieces] = border - begin
                way[at + pieces] = ways[turn]
            pieces += 1
        begin, turn = max(begin, border), turn + 1
    return pieces
