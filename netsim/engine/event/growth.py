"""Growth of the event engine's arrays."""

import numpy as np

from netsim.engine.core.arrays import longer_heap, zeros
from netsim.engine.core.shared import number
from netsim.engine.event.layout import packets
from netsim.engine.event.state import Flight, State


def with_capacity_for_flows(state: State, flows: int, packets_of_flows: int) -> State:
    """The state with room for `flows` flows, and for the recovery state of `packets_of_flows` packets."""
    rules, hosts, routing = state.network.rules[0], state.hosts, state.routing
    if packets_of_flows > len(hosts.sent) and rules["recovery"] == number("SELECTIVE"):
        sent, arrived = _longer(hosts.sent, packets_of_flows), _longer(hosts.arrived, packets_of_flows)
        hosts = hosts._replace(sent=sent, arrived=arrived)
    if flows > len(hosts.flows):
        timers, turns = longer_heap(hosts.timers, 4 * flows), longer_heap(hosts.turns, flows)
        hosts = hosts._replace(flows=_longer_lines(hosts.flows, flows), timers=timers, turns=turns)
        if rules["listens"]:
            hosts = hosts._replace(own=_longer(hosts.own, len(hosts.flows)))
        if rules["entries"]:
            routing = routing._replace(paths=_longer(routing.paths, len(hosts.flows) * int(rules["entries"])))
    return state if hosts is state.hosts else state._replace(hosts=hosts, routing=routing)


def with_capacity_for_released(state: State) -> State:
    """The state with room for the flows of the messages of this instant, however they are cut."""
    totals, rules, program = state.network.totals[0], state.network.rules[0], state.program
    parts, released = int(rules["parts"]), program.released[: totals["released"]]
    packets = int((program.bytes[released] // rules["payload"] + parts).sum())
    return with_capacity_for_flows(state, int(totals["flows"]) + len(released) * parts, int(totals["rows"]) + packets)


def with_capacity_for_packets(flight: Flight, state: State) -> Flight:
    """Doubles the number of packet records if all are in use."""
    totals = state.network.totals[0]
    if totals["free_packet"] >= 0:
        return flight
    used = len(flight.packets)
    totals["free_packet"] = used
    longer = _longer_lines(flight.packets, 2 * used)
    longer[used:] = packets(used)
    return flight._replace(packets=longer)


def with_capacity_in_calendar(flight: Flight, state: State) -> Flight:
    """Extends the calendar if all packets, or the entries of one event, might not fit into it."""
    queues = 0 if state.queued is None else len(state.queued.queues)
    used = int(flight.calendar[0]["time_ps"] + flight.slots["used"][0])
    needed = max(used + queues, 2 * len(flight.lanes) + len(flight.packets)) + number("ENTRIES_OF_EVENT")
    if needed <= len(flight.calendar):
        return flight
    calendar = longer_heap(flight.calendar, needed)
    run, left = np.zeros(2 * len(calendar) + 1, dtype=flight.run.dtype), flight.run[int(flight.slots["begin"][0]) :]
    run[-len(left) :] = left
    flight.slots["begin"] = len(run) - len(left)
    return flight._replace(calendar=calendar, later=_longer(flight.later, len(calendar)), run=run)


def with_capacity_for_waiting(state: State, packets_: int) -> State:
    """The state with room for `packets_` packets in queues."""
    queued = state.queued
    if queued is None or len(queued.waiting) >= packets_:
        return state
    return state._replace(queued=queued._replace(waiting=_longer(queued.waiting, packets_)))


def with_capacity_for_choices(state: State) -> State:
    """The state with twice as many records of choices at switches, if all are in use."""
    chosen = state.routing.chosen
    if state.network.totals[0]["chosen"] < len(chosen):
        return state
    return state._replace(routing=state.routing._replace(chosen=_longer(chosen, len(chosen) + 1)))


def _longer_lines(array: np.ndarray, needed: int) -> np.ndarray:
    """A longer copy of an array of records, aligned to cache lines."""
    longer = zeros(max(needed, len(array) * 3 // 2), array.dtype)
    longer[: len(array)] = array
    return longer


def _longer(array: np.ndarray, needed: int) -> np.ndarray:
    """A copy of the array with room for at least `needed` rows, and at least 1.5 times as long."""
    longer = np.zeros((max(needed, len(array) * 3 // 2), *array.shape[1:]), dtype=array.dtype)
    longer[: len(array)] = array
    return longer


_FIRST_SLOTS = 64


def with_avoided(state: State, route: tuple[int, int, int], until_ps: int) -> State:
    """The state in which a route is avoided until `until_ps`; the hash table doubles before it is half full.

    `route` is first link, destination leaf, and place among the routes between two leaves.
    """
    table = state.program.avoided
    known = table[table[:, 0] >= 0] if len(table) else table
    if 2 * (len(known) + 1) > len(table):
        table = np.full((max(_FIRST_SLOTS, 2 * len(table)), 4), -1, dtype=np.int64)
        for *entry, time_ps in known.tolist():
            _put(table, tuple(entry), time_ps)
        state = state._replace(program=state.program._replace(avoided=table))
    _put(table, route, until_ps)
    return state


def _put(table: np.ndarray, route: tuple[int, ...], until_ps: int) -> None:
    slot = _place_of(len(table), *route)
    while table[slot, 0] >= 0 and tuple(table[slot, :3].tolist()) != route:
        slot = (slot + 1) % len(table)
    table[slot] = *route, until_ps


def _place_of(slots: int, link: int, leaf: int, route: int) -> int:
    """Slot of the hash table where the search for a route begins, as in the core."""
    return ((link * 8191 + leaf) * 131 + route) % slots
