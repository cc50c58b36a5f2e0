"""State of the compiled flow-level engine: flows, the links that they share, and the segments between their ends.

A flow passes its first link, a segment, and its last link; one inside a host passes its first link only. A segment is
one way, or all usable ways of a pair of leaves, over which a flow spreads evenly.
"""

from typing import NamedTuple

import numpy as np

from netsim.engine.compiled.fabric import FabricArrays
from netsim.engine.compiled.lines import zeros
from netsim.engine.event.fields import INDEX, REAL, WHOLE, lines
from netsim.engine.event.state import Array
from netsim.engine.protocol import Scene
from netsim.units import PICOSECONDS_PER_SECOND

STREAM = lines(
    # A line of the cache.
    **dict.fromkeys(("left", "rate", "due_ps"), REAL),
    since_ps=WHOLE,
    **dict.fromkeys(("up", "segment", "down", "bottleneck", "mark"), INDEX),
    **dict.fromkeys(("up_place", "down_place", "following"), INDEX),
)
"""A flow: bytes left to send since a time, rate in bytes per picosecond, time in the heap of ends, the full link that
holds it back, whether it is affected, its places in `Streams.passing` as one of its first and of its last link, and the
next flow of its segment."""

MESSAGE = lines(**dict.fromkeys(("id", "task", "bytes", "start_ps", "end_ps"), WHOLE), ahead=INDEX)
"""What is seldom read of a flow: what it carries, its times, and the flow of its segment that is ahead of it."""

RISING = lines(
    **dict.fromkeys(("rate", "fresh"), REAL),
    **dict.fromkeys(("flow", "up", "segment", "down", "bottleneck"), INDEX),
    beside=np.dtype((INDEX, 3)),
)
"""An affected flow: its present and next rate, its links, the full link that will hold it back, and the place among the
affected flows of the next one of its first link, of its segment and of its last link. Filling reads these alone, since
flows lie far from each other."""

FIRST, BETWEEN, LAST = range(3)
"""Columns of `beside`."""

BLOCK = 16
"""Entries of a block of `Streams.passing`, a line of the cache: the block before it or -1, then flows."""

ENDING = np.dtype([("due_ps", np.float64), ("flow", np.int64)])
"""A flow, and a time at or before the one when it has sent everything."""

FILLING = np.dtype([("level", np.float64), ("link", np.int64)])
"""At which rate of its flows a link is full."""

SHARED = lines(
    # Three lines of the cache, of which filling takes the first.
    **dict.fromkeys(("capacity", "load", "taken", "demand", "level", "fastest"), REAL),
    **dict.fromkeys(("rising", "flows", "mark", "newest"), INDEX),
    **dict.fromkeys(("kept", "asked", "most", "least"), REAL),
    **dict.fromkeys(("affected", "latest", "at_host", "held"), INDEX),
    **dict.fromkeys(("delay_ps", "rate_bps", "last_ps", "rest_ps"), WHOLE),
)
"""A link: its capacity and load in bytes per picosecond.

While rates are filled: the load that is settled, the shares of flows that are not, the rate at which it holds flows
back, the fastest rate on it, and the number of flows that are not settled; the latest of those affected; as filling
begins, the load of flows that are not affected, and the shares and the number of those that are. Of the flows whose
rates stand: a rate that none exceeds, one below which none is that the link holds back, and the number of these. Of a
host's link: the place of its latest flow in `Streams.passing`, when one has sent its last byte, and the longest
remaining latency of such a byte.
"""


class Streams(NamedTuple):
    """Flows and links, and scratch space."""

    flows: Array  # records of `STREAM`, in the order of their admission
    messages: Array  # records of `MESSAGE` of the same flows
    links: Array  # records of `SHARED`
    ends: Array  # heap of the active flows, records of `ENDING`
    place: Array  # place of each flow there, -1 if it is not
    affected: Array  # flows whose rates are settled anew, records of `RISING`
    # Flows of each host's link, in blocks of which all but the latest are full. The flows of a block are read at the
    # same time; in a chain of flows each read would wait for the one before
    passing: Array
    touched: Array  # links of the affected flows
    heap: Array  # heap of links by the rate at which they are full, records of `FILLING`
    segment_begin: Array  # rows of `link` and `share` of each segment: of ways, then of pairs of leaves
    link: Array  # links of segments
    share: Array  # share of the segment's traffic that each carries
    segment_first: Array  # first flow of each segment
    segment_newest: Array  # while rates are filled, place of the latest affected flow of each segment
    link_begin: Array  # rows of `segment` of each link between switches
    segment: Array  # segments that a link is part of
    # Numbers of flows, of active flows, of affected flows and of allocations; the mark; the latest time of a large
    # allocation; whether flows have started since the last allocation, and whether affected ones have left; blocks of
    # `passing` that have ever been used, and the first of those that are free again, or -1
    counts: Array


FLOWS, ACTIVE, AFFECTED, ALLOCATIONS, MARK, SETTLED_PS, STARTED, LEFT, BLOCKS, SPARE = range(10)
"""Entries of `Streams.counts`."""


def way_rates(fabric: FabricArrays) -> np.ndarray:
    """Rate of each usable way: that of its slowest link, on a fabric whose links never change."""
    pair = np.repeat(np.arange(len(fabric.usable_begin) - 1), np.diff(fabric.usable_begin))
    links = fabric.way_links[fabric.way_begin[pair] + fabric.usable]
    rates = np.where(links >= 0, fabric.nominal_bps[links], np.iinfo(np.int64).max)
    return rates.min(axis=1, initial=np.iinfo(np.int64).max)


def fastest_first(fabric: FabricArrays) -> FabricArrays:
    """The fabric with the usable ways of each pair of leaves in the order of their rates."""
    pair = np.repeat(np.arange(len(fabric.usable_begin) - 1), np.diff(fabric.usable_begin))
    return fabric._replace(usable=fabric.usable[np.lexsort((-way_rates(fabric), pair))])


def streams_of(scene: Scene, fabric: FabricArrays, flows: int, weights: np.ndarray) -> Streams:
    """No flows yet, with room for so many, on a fabric whose links never change.

    The system gives memory to an array where it is first written, so that room for all flows costs nothing at first.
    `weights`: by row of `FabricArrays.usable`, the way's part of the traffic that spreads over those of its pair.
    """
    count = len(fabric.delay_ps)
    links = zeros(count, SHARED)
    links["rate_bps"], links["delay_ps"], links["latest"] = scene.rates.initial, fabric.delay_ps, -1
    links["last_ps"] = -1
    links["capacity"] = links["rate_bps"] / 8 / PICOSECONDS_PER_SECOND
    for ends in (fabric.up, fabric.down, fabric.inside):
        links["at_host"][ends] = 1
    begin, link, share = _segments(fabric, weights)
    by_link = np.argsort(link, kind="stable")
    segment = np.repeat(np.arange(len(begin) - 1), np.diff(begin))
    counts = np.zeros(10, dtype=np.int64)
    counts[SPARE] = -1
    return Streams(
        zeros(flows, STREAM),
        zeros(flows, MESSAGE),
        links,
        zeros(flows, ENDING),
        zeros(flows, np.dtype(INDEX)),
        zeros(flows, RISING),
        zeros(BLOCK * (count + 2 * flows // (BLOCK - 1)), np.dtype(INDEX)),
        np.zeros(count, dtype=np.int32),
        np.zeros(count, dtype=FILLING),
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
    """Rows, links and shares of all segments: each way, then the usable ways of each pair of leaves."""
    pairs, longest = len(fabric.way_begin) - 1, fabric.way_links.shape[1]
    present = fabric.way_links >= 0
    ways = present.sum(axis=1)
    links, shares, sizes = [fabric.way_links[present]], [np.ones(int(ways.sum()))], [ways]
    usable, begin = fabric.usable, fabric.usable_begin
    pair = np.repeat(np.arange(pairs), np.diff(begin))
    rows = fabric.way_links[fabric.way_begin[pair] + usable]
    codes = np.where(rows >= 0, np.repeat(pair, longest).reshape(rows.shape) * len(fabric.delay_ps) + rows, -1).ravel()
    distinct, place = np.unique(codes[codes >= 0], return_inverse=True)
    owner, link = np.divmod(distinct, len(fabric.delay_ps))
    links.append(link)
    parts = np.bincount(place, np.repeat(weights, longest)[codes >= 0], len(distinct))
    shares.append(parts / np.bincount(pair, weights, pairs)[owner])
    sizes.append(np.bincount(owner, minlength=pairs))
    rows_of = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)
    return rows_of, np.concatenate(links).astype(INDEX), np.concatenate(shares)
