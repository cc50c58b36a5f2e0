"""`netsim.transport.ethereal` for all hosts and moments at once."""

import numpy as np
from numba import njit

from netsim.draws import Purpose
from netsim.engine.compiled.annotations import Integer
from netsim.engine.exact.groups import Groups, groups_of
from netsim.engine.exact.hashes import draws
from netsim.engine.exact.layout import Layout
from netsim.engine.exact.messages import Messages, numbers_of
from netsim.transport.config import EtherealConfig


def balance(layout: Layout, messages: Messages, transport: EtherealConfig, seed: int) -> tuple[np.ndarray, ...]:
    """Cuts and balances all messages; returns the fields of `netsim.engine.exact.admission.Flows`."""
    groups, turn = groups_of(layout, messages, transport, seed)
    equal = transport.pieces == "equal"
    pieces = np.ones(len(messages.task), dtype=np.int64)
    nowhere = np.empty(0, dtype=np.int64)
    _cut(groups, messages.bytes, equal, nowhere, nowhere, nowhere, pieces)
    begin = np.cumsum(pieces) - pieces
    message = np.repeat(np.arange(len(pieces)), pieces)
    piece = np.arange(len(message)) - begin[message]
    size_bytes, way = messages.bytes[message], layout.fabric.way_begin[messages.pair[message]]
    _cut(groups, messages.bytes, equal, begin, size_bytes, way, pieces)
    identity, key = numbers_of(messages, message, piece, layout.most_paths)
    delay_ps = np.zeros_like(identity)
    if transport.start_delay:
        drawn = draws(seed, Purpose.START_DELAY, key, delay_ps)
        delay_ps = (drawn % np.uint64(transport.start_delay + 1)).astype(np.int64)
    return identity, key, message, size_bytes, way, delay_ps, turn[message] if len(turn) else turn


@njit(cache=True)
def _cut(
    groups: Groups,
    message_bytes: np.ndarray,
    equal: bool,
    begin: np.ndarray,
    size_bytes: np.ndarray,
    way: np.ndarray,
    pieces: np.ndarray,
) -> None:
    """Fills in a flow for each piece of messages, as few as possible unless `equal`; without `begin` only counts."""
    for group in range(len(groups.begin) - 1):
        member = groups.member[groups.begin[group] : groups.begin[group + 1]]
        ways = groups.way[groups.way_begin[group] : groups.way_begin[group + 1]]
        each = message_bytes[member[0]]
        cut = len(member) % len(ways)
        whole = len(member) - cut
        if len(begin):
            for turn in range(whole):
                way[begin[member[turn]]] += ways[turn % len(ways)]
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
    """Equal pieces of one of `flows` messages, which continue the turn; the first is flow `at` unless that is -1."""
    pieces = len(ways) // np.gcd(flows, len(ways))
    shortest, longer = each // pieces, each % pieces
    if at >= 0:
        for piece in range(min(pieces, each)):
            size_bytes[at + piece] = shortest + (piece < longer)
            way[at + piece] += ways[(position * pieces + piece) % len(ways)]
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
    """As few pieces as possible: way k takes bytes [k, k + 1) * total / s of the flows laid end to end."""
    total, begin, end = each * flows, position * each, (position + 1) * each
    turn, pieces = begin * len(ways) // total, 0
    while begin < end:
        border = min(end, (turn + 1) * total // len(ways))
        if border > begin:
            if at >= 0:
                size_bytes[at + pieces] = border - begin
                way[at + pieces] += ways[turn]
            pieces += 1
        begin, turn = max(begin, border), turn + 1
    return pieces
