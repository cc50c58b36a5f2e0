"""The outcome of a run from the event engine's arrays."""

import numpy as np
from numpy.lib.recfunctions import unstructured_to_structured

from netsim.engine.core.arrays import END_PS
from netsim.engine.core.shared import number
from netsim.engine.event.finished import by_id, figures_of
from netsim.engine.event.state import State
from netsim.engine.protocol import LINK, Losses, Outcome, QueueSeries, Scene
from netsim.engine.watch import SAMPLE, Watched
from netsim.foundation.units import PICOSECONDS_PER_SECOND


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
    """Empties a list and returns its parts."""
    taken = parts.copy()
    parts.clear()
    return taken


_SMALL_BYTES = 1 << 20
"""Packets up to this size have products of bits and picoseconds that fit into 64 bits."""


def links_of(state: State) -> np.recarray:
    """Figures of each link, including acknowledgements that passed without an event (`transit._return_at_once`)."""
    network, routing = state.network, state.routing
    flows = state.hosts.flows[: network.totals["flows"][0]]
    links = network.links
    records = np.zeros(len(links), dtype=LINK)
    records["bytes"], records["busy_ps"], records["max_queue_ps"] = (
        links["bytes"],
        links["busy_ps"],
        links["longest_ps"],
    )
    if state.queued is not None:
        records["paused_ps"] = state.queued.queues["paused_ps"].reshape(len(links), -1).sum(axis=1)
    acks, acknowledged = np.zeros(len(links), dtype=np.int64), np.flatnonzero(routing.route_acks)
    for end in ("up", "down"):
        np.add.at(acks, links["reverse"][flows[end]], flows["acks"])
    route_links, of_route = routing.route_links[acknowledged], routing.route_acks[acknowledged]
    route, hop = np.nonzero(route_links >= 0)
    np.add.at(acks, links["reverse"][route_links[route, hop]], of_route[route])
    records["bytes"] += acks * network.rules["ack_wire"][0]
    return records.view(np.recarray)


def last_sent(state: State) -> dict[int, int]:
    """Remaining passage of the last data packet, for each link that hosts send on, without queues, in picoseconds."""
    sending = np.flatnonzero(state.hosts.rings["last_flow"] >= 0)
    links = sending // int(state.network.rules["classes"][0])
    return dict(zip(links.tolist(), _rest_ps(state, sending, links).tolist(), strict=True))


def _rest_ps(state: State, sending: np.ndarray, sent_on: np.ndarray) -> np.ndarray:
    """Remaining passage of the last packet of each ring that sends, at nominal rates; the least of its routes."""
    network, routing, kind = state.network, state.routing, state.network.links["kind"]
    rings = state.hosts.rings[sending]
    flows = state.hosts.flows[rings["last_flow"]]
    rest_ps = network.kinds["delay_ps"][kind[sent_on]]
    away = np.flatnonzero(flows["links"] != 1)
    rings, flows = rings[away], flows[away]
    rest_ps[away] += _passage_ps(network.kinds, kind[flows["down"]], rings["last_wire"])
    row = flows["pair"].astype(np.int64) * int(network.rules["epochs"][0]) + rings["last_epoch"]
    first, unknown = routing.usable_begin[row], rings["last_path"] < 0
    choices = np.where(unknown, routing.usable_begin[row + 1] - first, 1)
    place = np.repeat(np.arange(len(away)), choices)
    nth, path = np.arange(len(place)) - np.repeat(np.cumsum(choices) - choices, choices), rings["last_path"][place]
    path[unknown[place]] = routing.usable[(first[place] + nth)[unknown[place]]]
    links = routing.route_links[flows["first_route"][place] + path]
    passage_ps = _passage_ps(network.kinds, kind[links], rings["last_wire"][place, None])
    least_ps = np.full(len(away), END_PS)
    np.minimum.at(least_ps, place, np.where(links >= 0, passage_ps, 0).sum(axis=1))
    rest_ps[away] += least_ps
    return rest_ps


def _passage_ps(kinds: np.ndarray, kind: np.ndarray, wire_bytes: np.ndarray) -> np.ndarray:
    """Passage of packets over links of some kinds in picoseconds; large sizes do not overflow."""
    size = wire_bytes.astype(object) if wire_bytes.max(initial=0) > _SMALL_BYTES else wire_bytes
    service_ps = -(-8 * PICOSECONDS_PER_SECOND * size // kinds["rate_bps"][kind])
    return service_ps.astype(np.int64) + kinds["delay_ps"][kind]
