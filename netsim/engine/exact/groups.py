"""Groups of messages that `netsim.transport.ethereal` balances together, with the order of messages and of ways."""

from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.draws import Purpose
from netsim.engine.compiled.draws import draw, stream
from netsim.engine.exact.hashes import SIGN, draws
from netsim.engine.exact.layout import Layout
from netsim.engine.exact.messages import Messages
from netsim.engine.exact.sorting import room_for, sort
from netsim.transport.config import EtherealConfig


class Groups(NamedTuple):
    """Groups of messages of one size that a host releases in one instant to one leaf, or that have one way only."""

    member: np.ndarray  # messages, group by group, by index
    begin: np.ndarray  # begin of each group in `member`, and the end of the last
    way_begin: np.ndarray  # begin of each group in `way`, and the end of the last
    way: np.ndarray  # ways that a group may use, by their place among all of its pair of leaves


def groups_of(layout: Layout, messages: Messages, transport: EtherealConfig, seed: int) -> tuple[Groups, np.ndarray]:
    """The groups as they are cut, and the turn of each message at its host, empty if the nic decides."""
    choice = np.diff(layout.fabric.way_begin)[messages.pair] > 1
    groups = _by_number(layout, messages, choice)
    first = groups.member[groups.begin[:-1]]
    if transport.order == "staggered":
        ahead = _places_ahead(layout, messages)
        _sort_members(groups, np.where(choice, ahead, 0))
        _take_ways_in_turn(groups, first, layout, messages)
        return groups, _leaves_ahead(layout, messages, ahead)
    if transport.randomise:
        drawn = draws(seed, Purpose.ETHEREAL_FLOWS, messages.key, np.zeros_like(messages.key))
        _sort_members(groups, np.where(choice, (drawn ^ SIGN).view(np.int64), 0))
        _shuffle_ways(groups, messages.key[first], np.uint64(stream(seed, Purpose.ETHEREAL_PATHS)))
    if transport.order == "published":
        return groups, _leaf_by_leaf(groups, messages.task[first], messages.key[first], seed)
    return groups, np.empty(0, dtype=np.int64)


def _by_number(layout: Layout, messages: Messages, choice: np.ndarray) -> Groups:
    """All messages and ways of a group in the order of their numbers."""
    fabric = layout.fabric
    keys = messages.bytes, np.where(choice, messages.pair, -1), messages.release_ps, messages.link
    member = np.lexsort(keys)
    changes = np.ones(len(member) + 1, dtype=bool)
    changes[1:-1] = np.any([key[member[1:]] != key[member[:-1]] for key in keys], axis=0)
    begin = np.flatnonzero(changes) if len(member) else np.zeros(1, dtype=np.int64)
    row = messages.usable[member[begin[:-1]]]
    count = fabric.usable_begin[row + 1] - fabric.usable_begin[row]
    way_begin = np.concatenate([[0], np.cumsum(count)])
    place = np.arange(way_begin[-1]) - np.repeat(way_begin[:-1] - fabric.usable_begin[row], count)
    return Groups(member, begin, way_begin, fabric.usable[place])


@njit(cache=True)
def _sort_members(groups: Groups, turn: np.ndarray) -> None:
    """Orders the messages of each group by their turns, then by number."""
    room = room_for(groups.begin)
    key = np.empty_like(room.key)
    for group in range(len(groups.begin) - 1):
        member = groups.member[groups.begin[group] : groups.begin[group + 1]]
        for place in range(len(member)):
            key[place] = turn[member[place]]
        sort(key[: len(member)], member, room)


@njit(cache=True)
def _shuffle_ways(groups: Groups, drawn_by: np.ndarray, path_order: np.uint64) -> None:
    """Orders the ways of each group by draws."""
    room = room_for(groups.way_begin)
    key = np.empty_like(room.key)
    for group in range(len(drawn_by)):
        way = groups.way[groups.way_begin[group] : groups.way_begin[group + 1]]
        for place in range(len(way)):
            key[place] = np.int64(draw(path_order, drawn_by[group], way[place]) ^ SIGN)
        sort(key[: len(way)], way, room)


def _leaf_by_leaf(groups: Groups, task: np.ndarray, drawn_by: np.ndarray, seed: int) -> np.ndarray:
    """Turn of each message where groups come in shuffled order."""
    order = np.lexsort((task, draws(seed, Purpose.ETHEREAL_LEAVES, drawn_by, np.zeros_like(task))))
    size = np.diff(groups.begin)
    begin = np.empty_like(size)
    begin[order] = np.cumsum(size[order]) - size[order]
    turn = np.empty_like(groups.member)
    turn[groups.member] = np.arange(len(turn)) + np.repeat(begin - groups.begin[:-1], size)
    return turn


def _places_ahead(layout: Layout, messages: Messages) -> np.ndarray:
    """Distance from the source's place to the destination's, modulo the number of places."""
    place = layout.place
    return (place[messages.dst_host] - place[messages.src_host]) % (place.max() + 1)


def _leaves_ahead(layout: Layout, messages: Messages, ahead: np.ndarray) -> np.ndarray:
    """Turn of each message: by the distance in places, `ahead`, then by the distance in leaves."""
    leaf = layout.fabric.leaf
    leaves = leaf.max() + 1
    return ahead * leaves + (leaf[messages.dst_host] - leaf[messages.src_host]) % leaves


def _take_ways_in_turn(groups: Groups, first: np.ndarray, layout: Layout, messages: Messages) -> None:
    """Orders the ways of each group; `first` is a message of each."""
    src, base = messages.src_host[first], layout.fabric.way_begin[messages.pair[first]]
    up = layout.steps[:: layout.stride]
    _sort_ways(groups, base, up, len(layout.fabric.delay_ps), layout.fabric.leaf[src], layout.place[src])


@njit(cache=True)
def _sort_ways(
    groups: Groups, base: np.ndarray, up: np.ndarray, links: int, leaf: np.ndarray, place: np.ndarray
) -> None:
    """Orders ways so that consecutive ones use consecutive links up, and repeated links their next way."""
    room = room_for(groups.way_begin)
    key = np.empty_like(room.key)
    number, nth = np.empty_like(key), np.empty_like(key)
    seen, appearance = np.zeros(links, dtype=np.int64), np.empty(links, dtype=np.int64)
    for group in range(len(base)):
        way = groups.way[groups.way_begin[group] : groups.way_begin[group + 1]]
        size, different = len(way), 0
        if size == 1:
            continue
        for turn in range(size):
            link = up[base[group] + way[turn]]
            if not seen[link]:
                appearance[link] = different
                different += 1
            nth[turn] = seen[link]
            seen[link] += 1
        for turn in range(size):
            link = up[base[group] + way[turn]]
            key[turn] = (nth[turn] - leaf[group]) % seen[link] * different + appearance[link]
            number[turn] = way[turn]
        for turn in range(size):
            seen[up[base[group] + way[turn]]] = 0
        sort(key[:size], number[:size], room)
        for turn in range(size):
            way[turn] = number[(turn + place[group]) % size]
