"""Room for new flows in place of those that have ended, where nothing refers to a flow any more once it has arrived."""

import numpy as np

from netsim.engine.event.compiled import called
from netsim.engine.event.state import Array, State, Whole
from netsim.engine.protocol import FLOW

_KEPT = ("id", "task", "bytes", "packets", "start_ps", "end_ps", "reordered", "retransmitted")


def can_forget(state: State) -> bool:
    """Whether only rings and packets refer to flows: no acknowledgements, no timers, and none is left at the end."""
    rules = state.network.rules[0]
    return not (rules["listens"] or rules["start_delay_ps"] or rules["ends_early"])


def without_finished(state: State, flows_of_packets: list[np.ndarray]) -> np.ndarray:
    """Takes the flows that have ended out of a state, in place, and returns their figures.

    All others keep their order and are numbered anew, in the rings of hosts and in packets.
    """
    hosts, used, program = state.hosts, int(state.network.totals["flows"][0]), state.program
    number, figures = np.zeros(used, dtype=np.int64), np.zeros(used, dtype=FLOW)
    kept = _close_up(hosts.flows, hosts.rings, number, figures)
    for column in flows_of_packets:
        _renumber(column, number)
    figures = figures[: used - kept].copy()
    figures["src"], figures["dst"] = program.src[figures["task"]], program.dst[figures["task"]]
    hosts.flows[kept:used].view(np.uint8)[:] = 0
    state.network.totals["flows"] = kept
    return figures


@called
def _close_up(flows: Array, rings: Array, number: Array, figures: Array) -> Whole:
    """Moves the flows that go on to the front in one pass, and returns their number; fills in all its arguments."""
    for place in range(len(rings)):
        if rings[place].last_flow >= 0:
            number[rings[place].last_flow] = 1
    kept = gone = np.int64(0)
    for index in range(len(number)):
        flow = flows[index]
        if flow.left > 0 or flow.in_ring or number[index]:
            number[index] = kept
            if kept < index:
                flows[kept] = flow
            kept += 1
            continue
        ended = figures[gone]
        ended.id, ended.task, ended.bytes, ended.packets = flow.id, flow.task, flow.bytes, flow.packets
        ended.start_ps, ended.end_ps = flow.start_ps, flow.end_ps
        ended.reordered, ended.retransmitted = flow.reordered, flow.retransmitted
        gone += 1
    for index in range(kept):
        if flows[index].next_in_ring >= 0:
            flows[index].next_in_ring = number[flows[index].next_in_ring]
    for place in range(len(rings)):
        ring = rings[place]
        if ring.first >= 0:
            ring.first, ring.last = number[ring.first], number[ring.last]
        if ring.last_flow >= 0:
            ring.last_flow = number[ring.last_flow]
    return kept


@called
def _renumber(column: Array, number: Array) -> None:
    """Puts new numbers in place of old ones; those of packets that have arrived are of no flow."""
    for row in range(len(column)):
        if 0 <= column[row] < len(number):
            column[row] = number[column[row]]


def figures_of(state: State, which: np.ndarray) -> np.ndarray:
    """Figures of some flows, an array of `FLOW`."""
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
