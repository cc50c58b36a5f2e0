"""Choices of switches, in compiled code: see `netsim.transport.switched`.

Each pair of leaves and epoch (of the packet's departure) has a tree of choices: its nodes are the links that continue
the path so far, in the order of the ways. A packet descends in this tree.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from netsim.engine.compiled.draws import draw
from netsim.engine.compiled.fabric import FabricArrays
from netsim.engine.event.compiled import compiled
from netsim.engine.event.queued import work_before
from netsim.engine.event.state import Array, Hosts, Network, Queued, Record, Routing, Whole

SHORTEST, SHORTEST_DRAWN, SAMPLED, FLOW_SHORTEST = range(4)
"""Kinds: `JoinShortestQueue` with ties in turn and drawn, `Drill`, `AdaptiveFlow`."""

_SAMPLE_BITS, _LINK_BITS = np.int64(8), np.int64(20)
MOST_CANDIDATES = 192
"""Size of scratch space, more than `Drill` can draw and remember."""


class Tree(NamedTuple):
    """Choices of all pairs and epochs; node pair * E + epoch is where a packet of theirs begins."""

    begin: np.ndarray  # rows of the next two of each node
    link: np.ndarray  # links that lead on
    node: np.ndarray  # nodes to which they lead
    way: np.ndarray  # of each node, a way that begins with the links to it


def tree(fabric: FabricArrays) -> Tree:
    """The trees of choices of a fabric."""
    epochs = len(fabric.epoch_ps)
    roots = (len(fabric.way_begin) - 1) * epochs
    way = [-1] * roots
    children: list[dict[int, int]] = [{} for _ in range(roots)]
    for root in range(roots):
        first = int(fabric.way_begin[root // epochs])
        for index in fabric.usable[fabric.usable_begin[root] : fabric.usable_begin[root + 1]].tolist():
            links: Sequence[int] = fabric.way_links[first + index, : fabric.way_length[first + index]].tolist()
            node = root
            way[root] = first + index if way[root] < 0 else way[root]
            for link in links:
                if link not in children[node]:
                    children[node][link] = len(children)
                    children.append({})
                    way.append(first + index)
                node = children[node][link]
    begin = np.cumsum([0, *(len(of_node) for of_node in children)])
    link = np.array([link for of_node in children for link in of_node], dtype=np.int64)
    node = np.array([node for of_node in children for node in of_node.values()], dtype=np.int64)
    return Tree(begin.astype(np.int64), link, node, np.array(way, dtype=np.int64))


@compiled
def choose_next(
    network: Network,
    hosts: Hosts,
    routing: Routing,
    queued: Queued | None,
    index: int,
    packet: Record,
    serial: int,
    now: int,
) -> Whole:
    """The row of the next link of a packet, chosen by the switch where the packet is."""
    rules, totals = network.rules[0], network.totals[0]
    begin, end = routing.child_begin[packet.node], routing.child_begin[packet.node + 1]
    if end - begin == 1:
        return begin
    if rules.switch == SHORTEST:
        return _shortest(rules, network.links, routing, queued, hosts.flows[index], begin, end, now)
    if rules.switch == SHORTEST_DRAWN:
        return _shortest_drawn(rules, network.links, routing, queued, hosts.flows[index], serial, begin, end, now)
    if rules.switch == SAMPLED:
        return _sampled(rules, network.links, routing, queued, hosts.flows[index], serial, begin, end, now)
    flow, switch = hosts.flows[index], routing.source[routing.child_link[begin]]
    known = flow.chosen
    while known >= 0 and routing.chosen[known, 0] != switch:
        known = routing.chosen[known, 2]
    if known >= 0:
        for row in range(begin, end):
            if routing.child_link[row] == routing.chosen[known, 1]:
                return row
    row = _shortest(rules, network.links, routing, queued, flow, begin, end, now)
    if known < 0:
        known = totals.chosen
        totals.chosen += 1
        routing.chosen[known, 0], routing.chosen[known, 2] = switch, flow.chosen
        flow.chosen = known
    routing.chosen[known, 1] = routing.child_link[row]
    return row


@compiled
def backlog_ps(rules: Record, links: Array, queued: Queued | None, flow: Record, link: int, now: int) -> Whole:
    """Unfinished work in front of a link that goes before a new packet of a flow."""
    if queued is not None:
        return work_before(queued, rules, flow.traffic_class, link, now)
    return max(np.int64(0), links[link].free_ps - now)


@compiled
def _shortest(
    rules: Record, links: Array, routing: Routing, queued: Queued | None, flow: Record, begin: int, end: int, now: int
) -> Whole:
    """The link with the least unfinished work; among equals the next after the switch's last choice."""
    switch = routing.source[routing.child_link[begin]]
    last = routing.shortest[switch, 0]
    best, best_work, best_turn = np.int64(-1), np.int64(0), np.int64(0)
    for row in range(begin, end):
        link = routing.child_link[row]
        work = backlog_ps(rules, links, queued, flow, link, now) // rules.step_ps
        turn = link if link > last else link + len(links)
        if best < 0 or work < best_work or (work == best_work and turn < best_turn):
            best, best_work, best_turn = row, work, turn
    routing.shortest[switch, 0] = routing.child_link[best]
    return best


@compiled
def _shortest_drawn(
    rules: Record,
    links: Array,
    routing: Routing,
    queued: Queued | None,
    flow: Record,
    serial: int,
    begin: int,
    end: int,
    now: int,
) -> Whole:
    """The link with the least unfinished work; among equals one is drawn."""
    least, equal = np.int64(0), np.int64(0)
    for row in range(begin, end):
        work = backlog_ps(rules, links, queued, flow, routing.child_link[row], now) // rules.step_ps
        if not equal or work < least:
            least, equal = work, np.int64(0)
        if work == least:
            equal += 1
    drawn = draw(rules.path_draws, flow.key, (serial << _LINK_BITS) | routing.child_link[begin])
    left = np.int64(drawn % np.uint64(equal))
    for row in range(begin, end):
        if backlog_ps(rules, links, queued, flow, routing.child_link[row], now) // rules.step_ps == least:
            if not left:
                return row
            left -= 1
    return begin


@compiled
def _sampled(
    rules: Record,
    links: Array,
    routing: Routing,
    queued: Queued | None,
    flow: Record,
    serial: int,
    begin: int,
    end: int,
    now: int,
) -> Whole:
    """The shortest among queues drawn at random and the queues that were shortest before."""
    first = routing.child_link[begin]
    switch = routing.source[first]
    rows, works = routing.candidates[0], routing.candidates[1]
    size = 0
    for sample in range(rules.samples):
        drawn = draw(rules.path_draws, flow.key, (((serial << _SAMPLE_BITS) | sample) << _LINK_BITS) | first)
        row = begin + np.int64(drawn % np.uint64(end - begin))
        work = backlog_ps(rules, links, queued, flow, routing.child_link[row], now)
        size = _insert(rows, works, size, row, work)
    for place in range(rules.memory):
        for row in range(begin, end):
            if routing.child_link[row] == routing.shortest[switch, place]:
                work = backlog_ps(rules, links, queued, flow, routing.child_link[row], now)
                size = _insert(rows, works, size, row, work)
    for place in range(rules.memory):
        routing.shortest[switch, place] = routing.child_link[rows[place]] if place < size else -1
    return rows[0]


@compiled
def _insert(rows: Array, works: Array, size: int, row: int, work: int) -> Whole:
    """Adds a candidate that is not there yet, behind all that are as short; returns how many there are."""
    for place in range(size):
        if rows[place] == row:
            return size
    place = size
    while place and works[place - 1] > work:
        rows[place], works[place] = rows[place - 1], works[place - 1]
        place -= 1
    rows[place], works[place] = row, work
    return size + 1
