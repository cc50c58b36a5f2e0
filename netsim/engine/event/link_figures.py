"""Figures of links at the end of a run, from the event engine's arrays."""

import numpy as np

from netsim.engine.compiled.service import service_ps
from netsim.engine.event.calendar import END_PS
from netsim.engine.event.compiled import called, compiled
from netsim.engine.event.state import Array, Record, State, Whole
from netsim.engine.protocol import LINK


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
    answers = np.zeros(len(links), dtype=np.int64)
    _count_answers(flows, links, routing.way_answers, routing.way_links, answers)
    records["bytes"] += answers * network.rules["answer_wire"][0]
    return records.view(np.recarray)


def last_sent(state: State) -> dict[int, int]:
    """See `netsim.engine.protocol.Outcome.last_sent`."""
    network, routing, rules = state.network, state.routing, state.network.rules[0]
    classes, epochs = int(rules["classes"]), int(rules["epochs"])
    rings = np.flatnonzero(state.hosts.rings["last_flow"] >= 0)
    rest_ps = np.zeros(len(rings), dtype=np.int64)
    hosts, links = (state.hosts.rings, state.hosts.flows), (network.links, network.kinds)
    ways = routing.way_links, routing.usable_begin, routing.usable
    _add_rest(rings, hosts, links, ways, classes, epochs, rest_ps)
    return dict(zip((rings // classes).tolist(), rest_ps.tolist(), strict=True))


@called
def _count_answers(flows: Array, links: Array, way_answers: Array, way_links: Array, answers: Array) -> None:
    """Counts the answers that went back over each link without stopping."""
    for index in range(len(flows)):
        flow = flows[index]
        answers[links[flow.up].reverse] += flow.answers
        answers[links[flow.down].reverse] += flow.answers
    for way in range(len(way_answers)):
        for hop in range(way_links.shape[1] if way_answers[way] else 0):
            if way_links[way, hop] >= 0:
                answers[links[way_links[way, hop]].reverse] += way_answers[way]


@called
def _add_rest(
    sending: Array,
    hosts: tuple[Array, Array],
    network: tuple[Array, Array],
    ways: tuple[Array, Array, Array],
    classes: int,
    epochs: int,
    rest_ps: Array,
) -> None:
    """Adds the remaining passage of the last packet of each host's link, at nominal rates; the least of its ways."""
    (rings, flows), (links, kinds), (way_links, usable_begin, usable) = hosts, network, ways
    for place in range(len(sending)):
        ring = rings[sending[place]]
        flow = flows[ring.last_flow]
        rest_ps[place] = kinds[links[sending[place] // classes].kind].delay_ps
        if flow.links == 1:
            continue
        rest_ps[place] += _passage_ps(kinds[links[flow.down].kind], ring.last_wire)
        if ring.last_path >= 0:
            rest_ps[place] += _between_ps(links, kinds, way_links[flow.first_way + ring.last_path], ring.last_wire)
            continue
        row, least_ps = flow.pair * epochs + ring.last_epoch, END_PS
        for place_of_way in range(usable_begin[row], usable_begin[row + 1]):
            way = way_links[flow.first_way + usable[place_of_way]]
            least_ps = min(least_ps, _between_ps(links, kinds, way, ring.last_wire))
        rest_ps[place] += least_ps


@compiled
def _between_ps(links: Array, kinds: Array, way: Array, wire_bytes: int) -> Whole:
    """Passage of a packet over the links between two leaves, without queues."""
    passage_ps = np.int64(0)
    for hop in range(len(way)):
        if way[hop] >= 0:
            passage_ps += _passage_ps(kinds[links[way[hop]].kind], wire_bytes)
    return passage_ps


@compiled
def _passage_ps(kind: Record, wire_bytes: int) -> Whole:
    """Passage of a packet over a link of a kind."""
    return np.int64(service_ps(wire_bytes, kind.rate_bps)) + kind.delay_ps
