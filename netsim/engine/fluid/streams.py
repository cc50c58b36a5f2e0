"""State of the compiled flow-level engine: flows, the links that they share, and the segments between their ends.

A flow passes its first link, a segment, and its last link; one inside a host passes its first link only. A segment is
one route, or all usable routes of a pair of leaves, over which a flow spreads evenly.
"""

from typing import NamedTuple

import numpy as np

from netsim.engine.core.arrays import zeros
from netsim.engine.core.fabric import FabricArrays
from netsim.engine.core.shared import names, number, record
from netsim.engine.event.state import Array
from netsim.engine.protocol import Scene
from netsim.foundation.units import PICOSECONDS_PER_SECOND


class Streams(NamedTuple):
    """Flows and links, and scratch space: `Streams` of `state.hpp`."""

    flows: Array
    messages: Array
    links: Array
    ends: Array
    place: Array
    affected: Array
    passing: Array
    touched: Array
    heap: Array
    segment_begin: Array
    link: Array
    share: Array
    segment_first: Array
    segment_newest: Array
    link_begin: Array
    segment: Array
    counts: Array


def route_rates(fabric: FabricArrays) -> np.ndarray:
    """Rate of each usable route: that of its slowest link, on a fabric whose links never change."""
    pair = np.repeat(np.arange(len(fabric.usable_begin) - 1), np.diff(fabric.usable_begin))
    links = fabric.route_links[fabric.route_begin[pair] + fabric.usable]
    rates = np.where(links >= 0, fabric.nominal_bps[links], np.iinfo(np.int64).max)
    return rates.min(axis=1, initial=np.iinfo(np.int64).max)


def fastest_first(fabric: FabricArrays) -> FabricArrays:
    """The fabric with the usable routes of each pair of leaves sorted by rate, the fastest first."""
    pair = np.repeat(np.arange(len(fabric.usable_begin) - 1), np.diff(fabric.usable_begin))
    return fabric._replace(usable=fabric.usable[np.lexsort((-route_rates(fabric), pair))])


def streams_of(scene: Scene, fabric: FabricArrays, flows: int, weights: np.ndarray) -> Streams:
    """Empty state with room for `flows` flows, on a fabric whose links never change.

    The system gives memory to an array where it is first written, so that room for all flows costs nothing at first.
    `weights`: by row of `FabricArrays.usable`, the route's part of the traffic that spreads over those of its pair.
    """
    count = len(fabric.delay_ps)
    links = zeros(count, record("SharedLink"))
    links["rate_bps"], links["delay_ps"], links["latest"] = scene.rates.initial, fabric.delay_ps, -1
    links["last_ps"] = -1
    links["capacity"] = links["rate_bps"] / 8 / PICOSECONDS_PER_SECOND
    for ends in (fabric.up, fabric.down, fabric.inside):
        links["at_host"][ends] = 1
    begin, link, share = _segments(fabric, weights)
    by_link = np.argsort(link, kind="stable")
    segment = np.repeat(np.arange(len(begin) - 1), np.diff(begin))
    counts, block = np.zeros(len(names("Count")), dtype=np.int64), number("BLOCK")
    counts[number("SPARE")] = -1
    return Streams(
        zeros(flows, record("Stream")),
        zeros(flows, record("Message")),
        links,
        zeros(flows, record("Departure")),
        zeros(flows, np.dtype(np.int32)),
        zeros(flows, record("Rising")),
        zeros(block * (count + 2 * flows // (block - 1)), np.dtype(np.int32)),
        np.zeros(count, dtype=np.int32),
        np.zeros(count, dtype=record("Level")),
        begin,
        link,
        share,
        np.full(len(begin) - 1, -1, dtype=np.int32),
        np.full(len(begin) - 1, -1, dtype=np.int32),
        np.concatenate([[0], np.cumsum(np.bincount(link, minlength=count))]).astype(np.int64),
        segment[by_link].astype(np.int32),
        counts,
    )


def _segments(fabric: FabricArrays, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, links and shares of all segments: each route, then the usable routes of each pair of leaves."""
    pairs, longest = len(fabric.route_begin) - 1, fabric.route_links.shape[1]
    present = fabric.route_links >= 0
    routes = present.sum(axis=1)
    links, shares, sizes = [fabric.route_links[present]], [np.ones(int(routes.sum()))], [routes]
    usable, begin = fabric.usable, fabric.usable_begin
    pair = np.repeat(np.arange(pairs), np.diff(begin))
    rows = fabric.route_links[fabric.route_begin[pair] + usable]
    codes = np.where(rows >= 0, np.repeat(pair, longest).reshape(rows.shape) * len(fabric.delay_ps) + rows, -1).ravel()
    distinct, place = np.unique(codes[codes >= 0], return_inverse=True)
    owner, link = np.divmod(distinct, len(fabric.delay_ps))
    links.append(link)
    parts = np.bincount(place, np.repeat(weights, longest)[codes >= 0], len(distinct))
    shares.append(parts / np.bincount(pair, weights, pairs)[owner])
    sizes.append(np.bincount(owner, minlength=pairs))
    rows_of = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)
    return rows_of, np.concatenate(links).astype(np.int32), np.concatenate(shares)
