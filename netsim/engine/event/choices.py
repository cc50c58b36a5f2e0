"""Path choice of transports, packet by packet, in compiled code: see `netsim.transport`."""

import numpy as np

from netsim.engine.compiled.draws import draw
from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Hosts, Record, Routing, Whole

PINNED, SPRAY_RANDOM, SPRAY_ROUND_ROBIN, ROTATION, FLOWLET, REPS, AT_SWITCH, DETOURING, AT_FIRST_SWITCH = range(9)
"""Kinds of path choice: a path for each flow; a path for each packet, chosen by its host; links chosen by
switches; a detour for each packet; a path chosen by the first switch."""

VALID, KEPT = 0, 1
"""Columns of `Routing.paths`."""


@compiled
def epoch_of(routing: Routing, now: int) -> Whole:
    """Number of the epoch, an interval between changes of the routing's knowledge."""
    epoch = len(routing.epoch_ps) - 1
    while routing.epoch_ps[epoch] > now:
        epoch -= 1
    return epoch


@compiled
def is_usable(routing: Routing, begin: int, end: int, path: int) -> bool:
    """Whether a path is among some rows of usable ones."""
    for row in range(begin, end):  # noqa: SIM110
        if routing.usable[row] == path:
            return True
    return False


@compiled
def choose_path(rules: Record, hosts: Hosts, routing: Routing, index: int, serial: int, now: int, epoch: int) -> Whole:
    """Path of a packet whose flow has none of its own, among the ways of its pair of leaves."""
    flow, kind = hosts.flows[index], rules.choice
    begin = routing.usable_begin[flow.pair * rules.epochs + epoch]
    count = routing.usable_begin[flow.pair * rules.epochs + epoch + 1] - begin
    if kind == SPRAY_RANDOM:
        return _usable(rules, routing, begin, _pick(_drawn(rules, flow, serial), 0, count))
    if kind == SPRAY_ROUND_ROBIN:
        ring = hosts.rings[flow.up * rules.classes]
        ring.sent += 1
        return _usable(rules, routing, begin, _pick(draw(rules.path_draws, flow.up, 0), ring.sent, count))
    if kind == ROTATION:
        return _usable(rules, routing, begin, _rotate(rules, routing, flow, count))
    if kind == FLOWLET:
        path = flow.flowlet_path
        if path < 0 or now - flow.flowlet_ps > rules.gap_ps or not is_usable(routing, begin, begin + count, path):
            path = routing.usable[begin + _pick(draw(rules.path_draws, flow.key, serial), 0, count)]
        flow.flowlet_ps, flow.flowlet_path = now, path
        return np.int64(path)
    if kind == DETOURING:
        minimal = minimal_among(routing, begin, count, routing.minimal[flow.pair])
        if minimal == count:
            minimal = np.int64(0)
        return routing.usable[begin + minimal + _pick(draw(rules.path_draws, flow.key, serial), 0, count - minimal)]
    return _recycle(rules, routing, flow, index, serial, begin, count, now)


@compiled
def minimal_among(routing: Routing, begin: int, count: int, minimal: int) -> Whole:
    """How many of some usable paths are minimal; they come first."""
    among = np.int64(0)
    while among < count and routing.usable[begin + among] < minimal:
        among += 1
    return among


@compiled
def _drawn(rules: Record, flow: Record, serial: int) -> np.uint64:
    """The draw for a packet: of its path, or of a header value that leads to a path."""
    if not rules.entropies:
        return draw(rules.path_draws, flow.key, serial)
    turn, number = serial, 0
    if rules.in_rounds:
        turn, number = serial // rules.entropies, serial % rules.entropies
    value = _pick(draw(rules.path_draws, flow.key, turn), number, rules.entropies)
    return draw(rules.entropy_draws, flow.key, value)


@compiled
def _usable(rules: Record, routing: Routing, begin: int, place: int) -> Whole:
    """A usable path, by its place among those that begin at a row; without failures it is the place."""
    return place if rules.all_usable else np.int64(routing.usable[begin + place])


@compiled
def _pick(drawn: int, turn: int, count: int) -> Whole:
    """(drawn + turn) mod count, without overflow."""
    size = np.uint64(count)
    return np.int64((drawn % size + np.uint64(turn) % size) % size)


@compiled
def _rotate(rules: Record, routing: Routing, flow: Record, count: int) -> Whole:
    """The way after the one of the host's last packet to that leaf."""
    if flow.links == 1:
        return np.int64(0)
    pair = flow.source * rules.leaves + flow.leaf
    routing.counts[pair] += 1
    return _pick(draw(rules.path_draws, flow.up, flow.leaf), routing.counts[pair], count)


@compiled
def _recycle(
    rules: Record, routing: Routing, flow: Record, index: int, serial: int, begin: int, count: int, now: int
) -> Whole:
    """The oldest valid entry; else, frozen, the ring in turn; else a draw."""
    entries = rules.entries
    if rules.explore and _explores(rules, flow, now):
        return _usable(rules, routing, begin, _pick(_drawn(rules, flow, serial), 0, count))
    while flow.valid:
        path = np.int64(routing.paths[index * entries + flow.valid_begin, VALID])
        flow.valid_begin = (flow.valid_begin + 1) % entries
        flow.valid -= 1
        if is_usable(routing, begin, begin + count, path):
            return path
    if now < flow.frozen_ps:
        for _ in range(flow.kept):
            path = np.int64(routing.paths[index * entries + flow.kept_begin, KEPT])
            end = (flow.kept_begin + flow.kept) % entries
            routing.paths[index * entries + end, KEPT] = path
            flow.kept_begin = (flow.kept_begin + 1) % entries
            if is_usable(routing, begin, begin + count, path):
                return path
    return _usable(rules, routing, begin, _pick(_drawn(rules, flow, serial), 0, count))


@compiled
def _explores(rules: Record, flow: Record, now: int) -> bool:
    """Whether a packet explores although the ring may have entries: after a freeze, whose end empties the ring."""
    if flow.frozen_ps and now >= flow.frozen_ps:
        flow.frozen_ps = 0
        flow.exploring = rules.explore
        flow.valid = flow.kept = 0
    if flow.exploring:
        flow.exploring -= 1
        return True
    return False


@compiled
def came_through(rules: Record, routing: Routing, flow: Record, index: int, path: int) -> None:
    """REPS: a path without a mark becomes the newest entry; the oldest one goes if there is no room."""
    entries, first = rules.entries, index * rules.entries
    routing.paths[first + (flow.valid_begin + flow.valid) % entries, VALID] = path
    if flow.valid < entries:
        flow.valid += 1
    else:
        flow.valid_begin = (flow.valid_begin + 1) % entries
    routing.paths[first + (flow.kept_begin + flow.kept) % entries, KEPT] = path
    if flow.kept < entries:
        flow.kept += 1
    else:
        flow.kept_begin = (flow.kept_begin + 1) % entries
