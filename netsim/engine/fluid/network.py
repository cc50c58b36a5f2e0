"""A fabric whose capacity changes over time, and its active flows."""

from math import ceil, inf

import numpy as np

from netsim.engine import _core
from netsim.engine.fluid.flows import Flows, Routes, Segments, no_flows, with_capacity
from netsim.engine.protocol import Scene
from netsim.foundation.units import PICOSECONDS_PER_SECOND

_SLOWER = 1 - 1e-9
"""A flow counts as slower than another below this share of the other's rate."""
_ROUNDING_PS = 1e-3
_ROUNDING = 1e-13
"""Tolerance of times for rounding, absolute and relative."""
_HIDDEN = 1.000000000000101
"""Slightly more than 1 + `_ROUNDING`."""


class Network:
    """Flows that share links at max-min fair rates. Every allocation is certified."""

    def __init__(self, scene: Scene, segments: Segments) -> None:
        self._scene, self._segments = scene, segments
        self.flows: Flows = no_flows()
        self.count = 0
        """Number of flows so far."""
        self.allocations = 0
        """Number of allocations so far, all certified."""
        self._refill_from = inf
        self._line_up(np.zeros(0, dtype=np.int64))
        self._delay_ps = np.array([link.delay_ps for link in scene.topology.links], dtype=np.int64)
        self.change_links(0)

    def change_links(self, now_ps: int) -> None:
        """Sets the rates of all links to their rates at `now_ps`."""
        usual = np.array(self._scene.rates.initial, dtype=np.int64)
        rates = usual.copy()
        for link in self._scene.rates.changes:
            rates[link] = self._scene.rates.at(link, now_ps)
        self._capacity = rates / 8 / PICOSECONDS_PER_SECOND
        packet = self._scene.packet
        self._routes = Routes(self._delay_ps, np.where(rates, rates, usual), packet.payload, packet.header)
        self._refill_from = 0.0

    def add(self, **columns: np.ndarray) -> np.ndarray:
        """Adds flows, not active yet, by columns of `Flows`; missing columns are 0. Returns their indices."""
        more = len(columns["id"])
        self.flows = with_capacity(self.flows, self.count, more)
        new = slice(self.count, self.count + more)
        for name, column in columns.items():
            getattr(self.flows, name)[new] = column
        self.count += more
        added = np.arange(new.start, new.stop)
        self.flows.left_bytes[new] = self.wire_bytes(added)
        self.flows.empty_ps[new] = inf
        return added

    def start(self, flows: np.ndarray, now_ps: int) -> None:
        """Makes flows active."""
        self.flows.since_ps[flows] = now_ps
        self._line_up(np.concatenate([self.active, flows]))
        self._refill_from = 0.0

    @property
    def active(self) -> np.ndarray:
        """Flows that have bytes left to send."""
        return self._queue[self._gone :]

    def allocate(self, now_ps: int) -> None:
        """Allocates max-min fair rates to the active flows, and checks them."""
        if self._refill_from == inf:
            return
        active, flows, fabric = self.active, self.flows, self._segments.arrays()
        rising = active[flows.rate[active] >= self._refill_from]
        self._refill_from = inf
        if not len(rising):
            return
        before = flows.rate[rising]
        _core.fill_rates(active, rising, flows.segments, flows.rate, fabric, self._capacity)
        overfull, unjustified = _core.violations(active, flows.segments, flows.rate, fabric, self._capacity)
        if overfull or unjustified:
            raise RuntimeError(f"no max-min fair rates: {overfull} links overfull, {unjustified} flows unjustified")
        columns = flows.rate, flows.since_ps, flows.left_bytes, flows.empty_ps
        _core.change_rates(columns, rising, before, now_ps)
        self._line_up(active)
        self.allocations += 1

    def _line_up(self, active: np.ndarray) -> None:
        """Sorts active flows by the time at which they will have sent everything."""
        self._queue = active[np.argsort(self.flows.empty_ps[active], kind="stable")]
        self._empty_ps = self.flows.empty_ps[self._queue]
        self._fastest = np.maximum.accumulate(self.flows.rate[self._queue][::-1])[::-1]
        self._gone = 0

    def next_end_ps(self, now_ps: int) -> int | None:
        """When the first active flow has sent everything; None if none ever does."""
        if self._gone == len(self._queue) or self._empty_ps[self._gone] == inf:
            return None
        first = float(self._empty_ps[self._gone])
        return max(now_ps, ceil(first - max(_ROUNDING_PS, _ROUNDING * first)))

    def drain(self, until_ps: int) -> tuple[np.ndarray, np.ndarray]:
        """Removes flows that have sent everything by `until_ps`, or will within a picosecond or what rounding hides.

        Returns:
            Their indices, and for each the remaining latency of its last byte.
        """
        end = int(np.searchsorted(self._empty_ps, max(until_ps + 1.0, until_ps * _HIDDEN), side="right"))
        sent, self._gone = self._queue[self._gone : end], end
        if len(sent) and end < len(self._queue):
            slowest = self.flows.rate[sent].min() * _SLOWER
            if self._fastest[end] >= slowest:
                self._refill_from = min(self._refill_from, slowest)
        latency_ps = np.empty(len(sent), dtype=np.int64)
        flows, fabric = self.flows, self._segments.arrays()
        _core.latencies(flows.bytes[sent], flows.segments[sent], fabric, self._routes, latency_ps)
        return sent, latency_ps

    def wire_bytes(self, flows: np.ndarray) -> np.ndarray:
        """Total bytes of flows, headers included."""
        size, packet = self.flows.bytes[flows], self._scene.packet
        return size + packet.header * -(-size // packet.payload)

    def sent_bytes(self, flows: np.ndarray, now_ps: int) -> np.ndarray:
        """Bytes that flows have sent by now, headers included."""
        columns = self.flows
        lately = columns.rate[flows] * (now_ps - columns.since_ps[flows])
        return self.wire_bytes(flows) - np.maximum(columns.left_bytes[flows] - lately, 0)
