"""The outcome of a run from the event engine's arrays."""

import numpy as np

from netsim.engine.event.state import State
from netsim.engine.protocol import FLOW, LINK, Losses, Outcome, QueueSeries, Scene
from netsim.topology.protocol import Path
from netsim.units import service_ps


def outcome_of(scene: Scene, state: State) -> Outcome:
    """The outcome of a finished run.

    Args:
        scene: The simulated scene.
        state: The state at the end.
    """
    totals, program = state.network.totals[0], state.program
    flows = state.hosts.flows[: totals["flows"]]
    flows = flows[np.argsort(flows["id"])]
    outcome = Outcome(
        completion_ps=int(program.end_ps.max(initial=0)),
        task_end_ps=program.end_ps,
        packets=int(totals["packets"]),
        packet_hops=int(totals["hops"]),
        control_hops=int(totals["control_hops"]),
        losses=Losses(
            int(totals["dropped"]),
            int(totals["trimmed"]),
            int(totals["marked"]),
            int(flows["retransmitted"].sum()),
        ),
        flows=_flows(scene, flows),
        links=_links(state, flows),
        queues=QueueSeries(1 << int(totals["width_bits"]), state.network.longest[: totals["used"]].copy()),
        last_sent=_last_sent(scene, state),
    )
    if not scene.ends_early:
        return outcome
    return outcome.without_rest(int(totals["now_ps"]), flows["left"], scene.tasks.in_background)


def _flows(scene: Scene, flows: np.ndarray) -> np.recarray:
    columns = scene.tasks.columns()
    records = np.zeros(len(flows), dtype=FLOW)
    for name in ("id", "task", "bytes", "packets", "start_ps", "end_ps", "reordered", "retransmitted"):
        records[name] = flows[name]
    records["src"], records["dst"] = columns.src[flows["task"]], columns.dst[flows["task"]]
    return records.view(np.recarray)


def _links(state: State, flows: np.ndarray) -> np.recarray:
    """Figures of each link, including acknowledgements that passed without an event (`transit._return_at_once`)."""
    network, routing = state.network, state.routing
    links, size = network.links, network.rules["answer_wire"][0]
    records = np.zeros(len(links), dtype=LINK)
    records["bytes"], records["busy_ps"], records["max_queue_ps"] = (
        links["bytes"],
        links["busy_ps"],
        links["longest_ps"],
    )
    if state.queued is not None:
        records["paused_ps"] = state.queued.queues["paused_ps"].reshape(len(links), -1).sum(axis=1)
    for last in ("up", "down"):
        np.add.at(records["bytes"], links["reverse"][flows[last]], flows["answers"] * size)
    present = routing.way_links >= 0
    answers = np.broadcast_to(routing.way_answers[:, None], present.shape)
    np.add.at(records["bytes"], links["reverse"][routing.way_links[present]], answers[present] * size)
    return records.view(np.recarray)


def _last_sent(scene: Scene, state: State) -> dict[int, int]:
    """See `Outcome.last_sent`."""
    passage_ps: dict[int, int] = {}
    rings, flows = state.hosts.rings[:: scene.classes], state.hosts.flows
    for link in np.flatnonzero(rings["last_flow"] >= 0).tolist():
        ring = rings[link]
        task = flows["task"][ring["last_flow"]]
        src, dst = int(state.program.src_host[task]), int(state.program.dst_host[task])
        ways = scene.routes.paths(src, dst)
        path, size = int(ring["last_path"]), int(ring["last_wire"])
        indices = scene.routes.usable(src, dst, int(ring["last_epoch"])) if path < 0 else [path]
        passage_ps[link] = min(_alone(scene, ways[index], size) for index in indices)
    return passage_ps


def _alone(scene: Scene, path: Path, wire_bytes: int) -> int:
    """Remaining time of a packet after its host has sent it, without queues, at nominal rates."""
    links, rate = scene.topology.links, scene.rates.initial
    rest = (service_ps(wire_bytes, rate[link]) + links[link].delay_ps for link in path[1:])
    return links[path[0]].delay_ps + sum(rest)
