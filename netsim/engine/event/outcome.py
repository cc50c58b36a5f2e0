"""The outcome of a run from the event engine's arrays."""

import numpy as np
from numpy.lib.recfunctions import unstructured_to_structured

from netsim.engine.event.finished import by_id, figures_of
from netsim.engine.event.state import State
from netsim.engine.event.watching import COUNT
from netsim.engine.protocol import LINK, Losses, Outcome, QueueSeries, Scene
from netsim.engine.watch import SAMPLE, Watched
from netsim.topology.protocol import Path
from netsim.units import service_ps


def outcome_of(scene: Scene, state: State, finished: list[np.ndarray]) -> Outcome:
    """The outcome of a finished run.

    Args:
        scene: The simulated scene.
        state: The state at the end.
        finished: Figures of flows that are no longer part of the state; is emptied.
    """
    totals, program = state.network.totals[0], state.program
    flows = by_id([*_emptied(finished), figures_of(state, np.arange(totals["flows"]))])
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
        flows=flows.view(np.recarray),
        links=_links(state),
        queues=QueueSeries(1 << int(totals["width_bits"]), state.network.longest[: totals["used"]].copy()),
        last_sent=_last_sent(scene, state),
        watched=_watched(scene, state),
    )
    if not scene.ends_early:
        return outcome
    records = state.hosts.flows[: totals["flows"]]
    left = records["left"][np.argsort(records["id"])]
    return outcome.without_rest(int(totals["now_ps"]), left, scene.tasks.in_background)


def _watched(scene: Scene, state: State) -> Watched | None:
    if scene.watch is None:
        return None
    network, hosts = state.network, state.hosts
    width_bits, used = network.carried_shape.tolist()
    rows = [rows[:count] for rows, count in zip(hosts.samples, hosts.sampled[:, COUNT].tolist(), strict=True)]
    samples = [unstructured_to_structured(row, SAMPLE) for row in rows]
    tasks: list[int] = np.flatnonzero(hosts.slots >= 0).tolist()
    return Watched(1 << width_bits, network.carried[:, :used].copy(), tasks, samples)


def _emptied(parts: list[np.ndarray]) -> list[np.ndarray]:
    """The parts, which the list no longer holds."""
    taken = parts.copy()
    parts.clear()
    return taken


def _links(state: State) -> np.recarray:
    """Figures of each link, including acknowledgements that passed without an event (`transit._return_at_once`)."""
    network, routing = state.network, state.routing
    flows = state.hosts.flows[: network.totals["flows"][0]]
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
