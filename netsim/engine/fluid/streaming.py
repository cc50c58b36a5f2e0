"""The flow-level engine in the compiled core, for fabrics that never change (others: `netsim.engine.fluid.engine`)."""

from collections.abc import Callable

import numpy as np

from netsim.engine import _core
from netsim.engine.core.fabric import fabric_arrays
from netsim.engine.core.shared import names, number
from netsim.engine.event.engine import arrays_of
from netsim.engine.event.layout import state_of
from netsim.engine.event.room import with_room_for_flows
from netsim.engine.event.state import State
from netsim.engine.fluid.streams import Streams, fastest_first, route_rates, streams_of
from netsim.engine.frontier import stalled
from netsim.engine.limits import Clock, Pulse, Waiting, not_begun, reached
from netsim.engine.protocol import FLOW, LINK, Losses, Outcome, QueueSeries, Scene
from netsim.foundation.units import service_ps
from netsim.transport.build import PACKET_TRANSPORTS
from netsim.transport.ethereal import Ethereal
from netsim.transport.protocol import Transport

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
        state = with_room_for_flows(state, max(int(state.network.totals["released"][0]) * parts, _ROOM), 0)
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
