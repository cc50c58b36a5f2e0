"""Flows as columns, the draining of their bytes, and the parts of paths that many of them share."""

from array import array
from collections import Counter
from typing import NamedTuple

import numpy as np

from netsim.topology.protocol import Path

SPREAD = -1
"""Value of `route` for a flow that spreads evenly over all usable routes."""


class Flows(NamedTuple):
    """Arrays with a row a flow; integers but for the last three."""

    id: np.ndarray  # as in `netsim.transport.protocol.Flow`
    task: np.ndarray  # task whose bytes it carries
    bytes: np.ndarray  # payload
    route: np.ndarray  # index of its route between the leaves, or SPREAD
    start_ps: np.ndarray  # when its message was released
    end_ps: np.ndarray  # when its last byte arrives
    segments: np.ndarray  # [flows, 3] first link, middle segment, last link, as indices of `Segments`
    since_ps: np.ndarray  # time from which its present rate holds
    left_bytes: np.ndarray  # bytes left to send at that time, headers included
    rate: np.ndarray  # bytes per picosecond
    empty_ps: np.ndarray  # when it has sent everything at this rate, infinite at rate 0


def no_flows() -> Flows:
    """Columns without rows."""
    whole, part = np.zeros(0, dtype=np.int64), np.zeros(0)
    return Flows(whole, whole, whole, whole, whole, whole, np.zeros((0, 3), dtype=np.int64), whole, part, part, part)


def with_capacity(flows: Flows, used: int, more: int) -> Flows:
    """The columns with at least `more` rows behind the first `used`."""
    if used + more <= len(flows.id):
        return flows
    rows = max(used + more, 2 * used)
    grown = [np.zeros((rows, *column.shape[1:]), dtype=column.dtype) for column in flows]
    for column, old in zip(grown, flows, strict=True):
        column[:used] = old[:used]
    return Flows(*grown)


class Routes(NamedTuple):
    """Rates, delays and packet sizes that determine the latency of a flow. L links."""

    delay_ps: np.ndarray  # [L] propagation delay
    rate_bps: np.ndarray  # [L] present rate; for links that are down the nominal one
    payload_bytes: int  # largest payload of a packet
    header_bytes: int  # header of a packet


class SegmentArrays(NamedTuple):
    """Segments and links, in both directions. S segments, L links."""

    begin: np.ndarray  # [S + 1] rows of `link` and `share` of each segment
    link: np.ndarray  # links of a segment; those of its first route come first, in order
    share: np.ndarray  # share of the segment's traffic that the link carries, in (0, 1]
    first_route: np.ndarray  # [S] number of links of the first route
    link_begin: np.ndarray  # [L + 1] rows of `segment` and `segment_share` of each link
    segment: np.ndarray  # segments that a link is part of
    segment_share: np.ndarray  # share of that segment's traffic that the link carries


class Segments:
    """All segments of a run. A segment is a set of routes over which traffic spreads, often a single route.

    Every flow passes three: its first link, the routes between, and its last link. A single link is the segment with
    the link's own index.
    """

    def __init__(self, links: int) -> None:
        self.nothing = links
        """The segment without links."""
        self._links = links
        self._begin = array("q", [*range(links + 1), links])
        self._link, self._share = array("q", range(links)), array("d", [1.0] * links)
        self._first_route = array("q", [1] * links + [0])
        self._known: dict[tuple[tuple[Path, ...], tuple[int, ...]], int] = {(((),), (1,)): self.nothing}
        self._arrays: SegmentArrays | None = None

    def index(self, routes: tuple[Path, ...], weights: tuple[int, ...] | None = None) -> int:
        """The segment of traffic that spreads over these routes, evenly or in proportion to weights."""
        alone, first = len(routes) == 1, routes[0]
        if alone and len(first) == 1:
            return first[0]
        parts = (1,) * len(routes) if alone or weights is None else weights
        segment = self._known.get((routes, parts))
        if segment is None:
            segment = self._known[routes, parts] = len(self._first_route)
            uses: Counter[int] = Counter()
            for route, weight in zip(routes, parts, strict=True):
                for link in route:
                    uses[link] += weight
            self._link.extend(uses)
            self._share.extend(used / sum(parts) for used in uses.values())
            self._begin.append(len(self._link))
            self._first_route.append(len(first))
            self._arrays = None
        return segment

    def arrays(self) -> SegmentArrays:
        """All segments known so far."""
        if self._arrays is None:
            begin, link, share = np.array(self._begin), np.array(self._link), np.array(self._share)
            by_link = np.argsort(link, kind="stable")
            segment = np.repeat(np.arange(len(begin) - 1), np.diff(begin))
            link_begin = np.concatenate([[0], np.cumsum(np.bincount(link, minlength=self._links))])
            first_route = np.array(self._first_route)
            self._arrays = SegmentArrays(
                begin, link, share, first_route, link_begin.astype(np.int64), segment[by_link], share[by_link]
            )
        return self._arrays
