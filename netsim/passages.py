"""Least times of messages through an empty fabric, computed once for messages of equal bytes between equal hosts."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.engine.compiled.annotations import Integer
from netsim.engine.compiled.cache import forget_if_outdated
from netsim.engine.compiled.fabric import FabricArrays, fabric_arrays
from netsim.engine.compiled.interpreted import ready
from netsim.engine.compiled.service import service_ps
from netsim.engine.protocol import Scene

forget_if_outdated(Path(__file__).parent)


class Ends(NamedTuple):
    """Links of each rank's host, by rank."""

    up: np.ndarray  # to its leaf
    down: np.ndarray  # from its leaf
    inside: np.ndarray  # inside the host
    host: np.ndarray  # the host
    leaf: np.ndarray  # its leaf
    alike: np.ndarray  # number of the hosts that have this leaf and links of these rates and delays


class Kinds(NamedTuple):
    """Kinds of messages. Arrays by kind, times in picoseconds."""

    within: np.ndarray  # whether they stay inside their host
    first_ps: np.ndarray  # service on the first link
    last_ps: np.ndarray  # service on the last link
    head_ps: np.ndarray  # time until the first packet of a message may be at the last link
    tail_ps: np.ndarray  # time of the smallest packet after its service on the first link
    end_ps: np.ndarray  # delay of the last link


class Passages(NamedTuple):
    """Kinds of the messages of all tasks."""

    kind: np.ndarray  # [tasks] kind of each task's message; -1 for none
    kinds: Kinds  # all kinds
    ends: Ends  # links of hosts
    # [2, leaves] bytes on the wire that leave each leaf for another, and that come to it from others
    crossing: np.ndarray


class _Wire(NamedTuple):
    """What the smallest packet of a message depends on."""

    payload: int
    header: int
    parts: np.ndarray
    anywhere: bool
    shares: bool


def passages_of(scene: Scene, parts: Collection[int], anywhere: bool, shares: bool) -> Passages:
    """The passages of a scene's messages, cut into numbers of equal `parts`, `anywhere`, or into `shares` for paths."""
    fabric, columns, links = fabric_arrays(scene), scene.tasks.columns(), range(len(scene.topology.links))
    rates = np.array([scene.rates.best(link) for link in links], dtype=np.int64)
    ends = _ends(np.asarray(scene.hosts, dtype=np.int64), fabric, rates)
    numbers = np.array(sorted(parts), dtype=np.int64)
    wire = _Wire(scene.packet.payload, scene.packet.header, numbers, anywhere, shares)
    leaves = len(scene.topology.tiers[0])
    kind, first = ready(_kinds)(columns.src, columns.dst, columns.bytes, ends)
    crossing = ready(_crossing)(columns.src, columns.dst, columns.bytes, ends.leaf, leaves, wire)
    of_kinds = ready(_of_kinds)(columns.src[first], columns.dst[first], columns.bytes[first], ends, fabric, rates, wire)
    return Passages(kind, Kinds(*of_kinds), ends, crossing)


def _ends(host: np.ndarray, fabric: FabricArrays, rates: np.ndarray) -> Ends:
    links = fabric.up, fabric.down, fabric.inside
    described = np.stack([fabric.leaf, *(part[link] for link in links for part in (rates, fabric.delay_ps))])
    _, alike = np.unique(described, axis=1, return_inverse=True)
    up, down, inside = (link[host] for link in links)
    return Ends(up, down, inside, host, fabric.leaf[host], alike.reshape(-1)[host])


@njit(cache=True)
def _kinds(src: np.ndarray, dst: np.ndarray, size_bytes: np.ndarray, ends: Ends) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each task, and the first task of each kind; kinds are found in a hash table that doubles."""
    kind, first = np.full(len(src), -1, dtype=np.int32), np.empty(1024, dtype=np.int64)
    room, count = 2048, 0
    slots = np.full(room, -1, dtype=np.int64)
    for task in range(len(src)):
        if not size_bytes[task]:
            continue
        if 2 * count >= room:
            room *= 2
            slots = np.full(room, -1, dtype=np.int64)
            for known in range(count):
                slots[_slot(slots, first, src, dst, size_bytes, ends, first[known])] = known
        place = _slot(slots, first, src, dst, size_bytes, ends, task)
        if slots[place] < 0:
            if count == len(first):
                longer = np.empty(2 * count, dtype=np.int64)
                longer[:count] = first
                first = longer
            slots[place], first[count] = count, task
            count += 1
        kind[task] = slots[place]
    return kind, first[:count]


@njit(cache=True)
def _slot(
    slots: np.ndarray,
    first: np.ndarray,
    src: np.ndarray,
    dst: np.ndarray,
    size_bytes: np.ndarray,
    ends: Ends,
    task: Integer,
) -> Integer:
    """Place of a task's kind in the table, which is empty if the kind is new."""
    one, other, size = ends.alike[src[task]], ends.alike[dst[task]], size_bytes[task]
    inside = ends.host[src[task]] == ends.host[dst[task]]
    mixed = (one * 0x9E3779B1 + other) * 0x85EBCA6B + size * 0xC2B2AE35 + inside
    mixed ^= mixed >> 29
    place = (mixed * 0x27D4EB2F ^ (mixed >> 15)) & (len(slots) - 1)
    while slots[place] >= 0:
        known = first[slots[place]]
        same = size_bytes[known] == size and (ends.host[src[known]] == ends.host[dst[known]]) == inside
        if same and ends.alike[src[known]] == one and ends.alike[dst[known]] == other:
            break
        place = (place + 1) & (len(slots) - 1)
    return place


@njit(cache=True)
def _crossing(
    src: np.ndarray, dst: np.ndarray, size_bytes: np.ndarray, leaf: np.ndarray, leaves: int, wire: _Wire
) -> np.ndarray:
    crossing = np.zeros((2, leaves), dtype=np.int64)
    for task in range(len(src)):
        size = size_bytes[task]
        one, other = leaf[src[task]], leaf[dst[task]]
        if size and one != other:
            whole = size + wire.header * ((size + wire.payload - 1) // wire.payload)
            crossing[0, one] += whole
            crossing[1, other] += whole
    return crossing


@njit(cache=True)
def _of_kinds(
    src: np.ndarray,
    dst: np.ndarray,
    size_bytes: np.ndarray,
    ends: Ends,
    fabric: FabricArrays,
    rates: np.ndarray,
    wire: _Wire,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The fields of `Kinds`, from a message of each kind."""
    count, leaves = len(src), int(np.sqrt(len(fabric.pair)))
    within = np.zeros(count, dtype=np.bool_)
    first_ps, last_ps = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    head_ps, tail_ps, end_ps = np.zeros_like(first_ps), np.zeros_like(first_ps), np.zeros_like(first_ps)
    for kind in range(count):
        one, other, size = src[kind], dst[kind], size_bytes[kind]
        whole = size + wire.header * ((size + wire.payload - 1) // wire.payload)
        within[kind] = ends.host[one] == ends.host[other]
        up = ends.inside[one] if within[kind] else ends.up[one]
        down = ends.inside[one] if within[kind] else ends.down[other]
        first_ps[kind], last_ps[kind] = _service_ps(whole, rates[up]), _service_ps(whole, rates[down])
        tail_ps[kind], end_ps[kind] = fabric.delay_ps[up], fabric.delay_ps[down]
        if not within[kind]:
            pair = fabric.pair[ends.leaf[one] * leaves + ends.leaf[other]]
            paths = _paths_ever_up(pair, fabric, rates)
            smallest = _smallest_packet(size, max(1, paths), wire) + wire.header
            full = min(size, wire.payload) + wire.header
            before = (_shortest_flow(size, max(1, paths), wire) - 1) // wire.payload
            way_ps = _least_ps(pair, smallest, paths > 0, fabric, rates)
            full_ps = _service_ps(full, rates[up])
            small_first_ps = before * full_ps + _service_ps(smallest, rates[up]) + way_ps
            full_first_ps = full_ps + _least_ps(pair, full, paths > 0, fabric, rates)
            head_ps[kind] = fabric.delay_ps[up] + min(full_first_ps, small_first_ps)
            tail_ps[kind] += way_ps + _service_ps(smallest, rates[down]) + fabric.delay_ps[down]
    return within, first_ps, last_ps, head_ps, tail_ps, end_ps


@njit(cache=True)
def _paths_ever_up(pair: Integer, fabric: FabricArrays, rates: np.ndarray) -> Integer:
    """How many ways between two leaves are up at some time."""
    up = 0
    for way in range(fabric.way_begin[pair], fabric.way_begin[pair + 1]):
        up += _is_ever_up(fabric.way_links[way, : fabric.way_length[way]], rates)
    return up


@njit(cache=True)
def _least_ps(pair: Integer, wire_bytes: Integer, some_up: bool, fabric: FabricArrays, rates: np.ndarray) -> Integer:
    """The least time of a packet between two leaves, over ways that are ever up, if there are some."""
    least = np.int64(-1)
    for way in range(fabric.way_begin[pair], fabric.way_begin[pair + 1]):
        if some_up and not _is_ever_up(fabric.way_links[way, : fabric.way_length[way]], rates):
            continue
        passage_ps = np.int64(0)
        for link in fabric.way_links[way, : fabric.way_length[way]]:
            passage_ps += _service_ps(wire_bytes, rates[link]) + fabric.delay_ps[link]
        if least < 0 or passage_ps < least:
            least = passage_ps
    return max(least, np.int64(0))


@njit(cache=True)
def _is_ever_up(links: np.ndarray, rates: np.ndarray) -> bool:
    for link in links:  # noqa: SIM110
        if not rates[link]:
            return False
    return True


@njit(cache=True)
def _smallest_packet(size_bytes: Integer, paths: Integer, wire: _Wire) -> Integer:
    """Least payload of a packet."""
    if wire.anywhere:
        return np.int64(1)
    least = _last_packet(size_bytes, wire.payload)
    each, rest = size_bytes // paths, size_bytes % paths
    for share in range(1, paths + 1 if wire.shares else 1):
        shorter = each * share + rest * share // paths
        longer = shorter + (rest * share % paths > 0)
        least = min(least, _last_packet(shorter, wire.payload), _last_packet(longer, wire.payload))
    for parts in wire.parts:
        shorter = size_bytes // parts
        least = min(least, _last_packet(shorter, wire.payload))
        if size_bytes % parts:
            least = min(least, _last_packet(shorter + 1, wire.payload))
    return least


@njit(cache=True)
def _shortest_flow(size_bytes: Integer, paths: Integer, wire: _Wire) -> Integer:
    """Least payload of a flow."""
    if wire.anywhere:
        return np.int64(1)
    least = size_bytes // paths if wire.shares else size_bytes
    for parts in wire.parts:
        least = min(least, size_bytes // parts)
    return max(least, np.int64(1))


@njit(cache=True)
def _last_packet(size_bytes: Integer, payload: Integer) -> Integer:
    """Payload of the last packet of a flow; a whole one for no flow."""
    return (size_bytes - 1) % payload + 1 if size_bytes else payload


@njit(cache=True)
def _service_ps(wire_bytes: Integer, rate_bps: Integer) -> Integer:
    """`netsim.units.service_ps`; 0 for links that are never up."""
    return service_ps(wire_bytes, rate_bps) if rate_bps else np.int64(0)
