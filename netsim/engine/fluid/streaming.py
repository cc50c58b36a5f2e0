"""The flow-level engine in the compiled core, for fabrics that never change (others: `netsim.engine.fluid.engine`).

A flow passes its first link, a segment, and its last link; one inside a host passes its first link only. A segment is
one route, or all usable routes of a pair of leaves, over which a flow spreads evenly.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from netsim.engine import _core
from netsim.engine.core.arrays import zeros
from netsim.engine.core.fabric import FabricArrays, fabric_arrays
from netsim.engine.core.shared import names, number, record
from netsim.engine.event.engine import arrays_of
from netsim.engine.event.growth import with_capacity_for_flows
from netsim.engine.event.layout import state_of
from netsim.engine.event.state import Array, State
from netsim.engine.frontier import stalled
from netsim.engine.limits import Clock, Pulse, Waiting, not_begun, reached
from netsim.engine.protocol import FLOW, LINK, Losses, Outcome, QueueSeries, Scene
from netsim.foundation.units import PICOSECONDS_PER_SECOND, service_ps
from netsim.transport.build import PACKET_TRANSPORTS
from netsim.transport.ethereal import Ethereal
from netsim.transport.protocol import Transport


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


_ROOM = 1 << 14


def can_stream(scene: Scene, transport: Transport | None) -> bool:
    """Whether the compiled engine takes a run: nothing fails, and a built-in transport starts every flow at once."""
    if scene.rates.changes or len(scene.routes.times) > 1 or scene.tasks.in_background.any():
        return False
    if isinstance(transport, Ethereal) and transport.start_delay_ps:
        return False
    return transport is None or type(transport) in PACKET_TRANSPORTS.values()


def stream(scene: Scene, transport: Transport | None, report: Callable[[Pulse], None] | None = None) -> Outcome:
    """Simulates until all tasks are done."""
    clock = Clock(scene.limits, report)
    fabric = fabric_arrays(scene) if transport else fastest_first(fabric_arrays(scene))
    weights = np.ones(len(fabric.usable)) if transport else route_rates(fabric).astype(np.float64)
    state = state_of(scene, fabric, transport or Transport(0, 1), 0)
    parts = int(state.network.rules["parts"][0])
    most_flows = int(np.minimum(scene.tasks.columns().bytes, parts).sum())
    streams = streams_of(scene, fabric, most_flows, weights)
    while (why := names("Stop")[_core.run_streams(arrays_of(state), tuple(streams))]) != "FINISHED":
        if why == "UNFAIR":
            raise RuntimeError("no max-min fair rates")
        if why == "IN_TIME":
            raise reached(scene.limits, "simulated", _pulse(state), _first_waiting(scene, state, streams))
        if clock.is_over(_pulse(state)):
            raise reached(scene.limits, "wall", _pulse(state), _first_waiting(scene, state, streams))
        state = with_capacity_for_flows(state, max(int(state.network.totals["released"][0]) * parts, _ROOM), 0)
    if state.network.totals["undone"][0]:
        raise stalled(scene, np.flatnonzero(state.program.waits_for == 0).tolist())
    links = streams.links
    return Outcome(
        completion_ps=int(state.program.end_ps.max(initial=0)),
        task_end_ps=state.program.end_ps,
        packets=0,
        packet_hops=0,
        control_hops=0,
        losses=Losses(),
        flows=_flows(scene, streams.messages[: streams.counts[number("FLOWS")]]).view(np.recarray),
        links=_links(scene, streams).view(np.recarray),
        queues=QueueSeries(1, np.zeros(0, dtype=np.int64)),
        last_sent={link: int(links["rest_ps"][link]) for link in np.flatnonzero(links["last_ps"] >= 0).tolist()},
        certified_allocations=int(streams.counts[number("ALLOCATIONS")]),
    )


def _pulse(state: State) -> Pulse:
    totals = state.network.totals[0]
    tasks = len(state.program.bytes)
    return Pulse(int(totals["now_ps"]), tasks - int(totals["undone"]), tasks)


def _first_waiting(scene: Scene, state: State, streams: Streams) -> Waiting:
    index = int(np.flatnonzero(state.program.waits_for == 0)[0])
    task, begun = scene.tasks[index], streams.messages["task"][: streams.counts[number("FLOWS")]]
    why = "its bytes are on their way" if index in begun else not_begun(task.delay_ps)
    return Waiting(task.src, task.dst, task.bytes, why)


def _flows(scene: Scene, messages: np.ndarray) -> np.ndarray:
    """Results of all flows in the order of their ids."""
    columns, records = scene.tasks.columns(), np.zeros(len(messages), dtype=FLOW)
    in_order = messages[np.argsort(messages["id"])]
    for name in ("id", "task", "bytes", "start_ps", "end_ps"):
        records[name] = in_order[name]
    records["src"], records["dst"] = columns.src[records["task"]], columns.dst[records["task"]]
    return records


def _links(scene: Scene, streams: Streams) -> np.ndarray:
    """Bytes of each link."""
    packet, count, flows = scene.packet, len(streams.links), streams.flows[: streams.counts[number("FLOWS")]]
    size = streams.messages["bytes"][: len(flows)]
    wire, away = size + packet.header * -(-size // packet.payload), flows["down"] >= 0
    loads = np.bincount(flows["up"], wire, count) + np.bincount(flows["down"][away], wire[away], count)
    carried = np.bincount(flows["segment"][away], wire[away], len(streams.segment_begin) - 1)
    of_link = np.repeat(carried, np.diff(streams.segment_begin)) * streams.share
    loads += np.bincount(streams.link, of_link, count)
    sizes = [round(load) for load in loads.tolist()]
    rates = scene.rates.initial
    return np.array([(size, service_ps(size, rate), 0, 0) for size, rate in zip(sizes, rates, strict=True)], dtype=LINK)
