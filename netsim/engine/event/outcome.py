"""The outcome of a run from the event engine's arrays."""

import numpy as np
from numpy.lib.recfunctions import unstructured_to_structured

from netsim.engine.core.shared import number
from netsim.engine.event.finished import by_id, figures_of
from netsim.engine.event.link_figures import last_sent, links_of
from netsim.engine.event.state import State
from netsim.engine.protocol import Losses, Outcome, QueueSeries, Scene
from netsim.engine.watch import SAMPLE, Watched


def outcome_of(scene: Scene, state: State, finished: list[np.ndarray]) -> Outcome:
    """The outcome of a finished run; `finished`, figures of flows that have left the state, is emptied."""
    totals, program = state.network.totals[0], state.program
    flows = by_id([*_emptied(finished), figures_of(state, np.arange(totals["flows"]))])
    outcome = Outcome(
        completion_ps=int(program.end_ps.max(initial=0)),
        task_end_ps=program.end_ps,
        packets=int(totals["packets"]),
        packet_hops=int(totals["hops"]),
        control_hops=int(totals["control_hops"]),
        losses=Losses(
            int(totals["dropped"]), int(totals["trimmed"]), int(totals["marked"]), int(flows["retransmitted"].sum())
        ),
        flows=flows.view(np.recarray),
        links=links_of(state),
        queues=QueueSeries(1 << int(totals["width_bits"]), state.network.longest[: totals["used"]].copy()),
        last_sent=last_sent(state),
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
    rows = [rows[:count] for rows, count in zip(hosts.samples, hosts.sampled[:, number("COUNT")].tolist(), strict=True)]
    samples = [unstructured_to_structured(row, SAMPLE) for row in rows]
    tasks: list[int] = np.flatnonzero(hosts.slots >= 0).tolist()
    return Watched(1 << width_bits, network.carried[:, :used].copy(), tasks, samples)


def _emptied(parts: list[np.ndarray]) -> list[np.ndarray]:
    """The parts, which the list no longer holds."""
    taken = parts.copy()
    parts.clear()
    return taken
