"""Room for new flows in place of those that have ended, in open loops, whose flows nothing refers to at their end."""

import numpy as np

from netsim.engine.event.state import State
from netsim.engine.protocol import FLOW

_KEPT = ("id", "task", "bytes", "packets", "start_ps", "end_ps", "reordered", "retransmitted")


def without_finished(state: State) -> tuple[State, np.ndarray]:
    """Takes the flows that have ended out of the state of an open loop.

    All others keep their order and are numbered anew, in the rings of hosts, in packets and in timers.

    Returns:
        The state, and the figures of the flows that were taken out.
    """
    network, hosts = state.network, state.hosts
    totals, used = network.totals[0], int(network.totals["flows"][0])
    flows, rings = hosts.flows[:used], hosts.rings
    stays = (flows["left"] > 0) | (flows["in_ring"] > 0)
    stays[rings["last_flow"][rings["last_flow"] >= 0]] = True
    figures = figures_of(state, np.flatnonzero(~stays))
    number = np.cumsum(stays) - 1
    kept = np.flatnonzero(stays)
    for place in ("first", "last", "last_flow"):
        _renumber(rings[place], number)
    _renumber(flows["next_in_ring"], number)
    _renumber(network.packets["flow"], number)
    timers = hosts.timers[1 : 1 + int(hosts.timers["time_ps"][0])]
    _renumber(timers["what"], number)
    flows[: len(kept)] = flows[kept]
    hosts.flows[len(kept) : used] = np.zeros(1, dtype=hosts.flows.dtype)
    totals["flows"] = len(kept)
    return state, figures


def figures_of(state: State, which: np.ndarray) -> np.ndarray:
    """Figures of some flows, an array of `FLOW`."""
    flows, program = state.hosts.flows, state.program
    figures = np.zeros(len(which), dtype=FLOW)
    for name in _KEPT:
        figures[name] = flows[name][which]
    figures["src"], figures["dst"] = program.src[figures["task"]], program.dst[figures["task"]]
    return figures


def _renumber(indices: np.ndarray, number: np.ndarray) -> None:
    """Replaces flows by their new numbers; -1 stays."""
    indices[:] = np.where(indices >= 0, number[np.minimum(indices, len(number) - 1)], indices)
