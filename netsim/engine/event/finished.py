"""Removes ended flows to make room for new flows, in runs where nothing refers to a flow after its arrival."""

import numpy as np

from netsim.engine.event.state import State
from netsim.engine.protocol import FLOW

_KEPT = ("id", "task", "bytes", "packets", "start_ps", "end_ps", "reordered", "retransmitted")


def can_forget(state: State) -> bool:
    """Whether only rings and packets refer to flows: no acknowledgements, no timers, no flows left at the end."""
    rules = state.network.rules[0]
    return not (rules["listens"] or rules["start_delay_ps"] or rules["ends_early"])


def without_finished(state: State, flows_of_packets: list[np.ndarray]) -> np.ndarray:
    """Removes the ended flows from a state, in place, and returns their figures.

    All other flows keep their order and get new numbers, also in the rings of hosts and in packets.
    """
    used = int(state.network.totals["flows"][0])
    flows, rings = state.hosts.flows[:used], state.hosts.rings
    stays = (flows["left"] > 0) | (flows["in_ring"] > 0)
    stays[rings["last_flow"][rings["last_flow"] >= 0]] = True
    figures, kept = figures_of(state, np.flatnonzero(~stays)), np.flatnonzero(stays)
    number = np.zeros(used, dtype=np.int32)
    number[kept] = np.arange(len(kept))
    whole = flows.view(f"V{flows.itemsize}")
    whole[: len(kept)] = whole[kept]
    flows[len(kept) :].view(np.uint8)[:] = 0
    busy = np.flatnonzero(rings["first"] >= 0)
    for name in ("first", "last"):
        rings[name][busy] = number[rings[name][busy]]
    for column in (rings["last_flow"], flows["next_in_ring"][: len(kept)], *flows_of_packets):
        _renumber(column, number)
    state.network.totals["flows"] = len(kept)
    return figures


def _renumber(column: np.ndarray, number: np.ndarray) -> None:
    """Replaces old flow numbers by new ones; in packets that have arrived the number means nothing."""
    known = np.flatnonzero((column >= 0) & (column < len(number)))
    column[known] = number[column[known]]


def figures_of(state: State, which: np.ndarray) -> np.ndarray:
    """Results of the flows with indices `which`, an array of `FLOW`."""
    flows, program = state.hosts.flows, state.program
    figures = np.zeros(len(which), dtype=FLOW)
    for name in _KEPT:
        figures[name] = flows[name][which]
    figures["src"], figures["dst"] = program.src[figures["task"]], program.dst[figures["task"]]
    return figures


def by_id(parts: list[np.ndarray]) -> np.ndarray:
    """Figures of all flows in the order of their ids; empties the list, so that a part is freed once it is copied."""
    ids = np.concatenate([part["id"] for part in parts])
    place = np.empty_like(ids)
    place[np.argsort(ids)] = np.arange(len(ids))
    figures, begin = np.empty(len(ids), dtype=FLOW), 0
    while parts:
        part = parts.pop(0)
        figures[place[begin : begin + len(part)]] = part
        begin += len(part)
    return figures
