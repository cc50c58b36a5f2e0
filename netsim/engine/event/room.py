"""Room for more: arrays that grow as a run needs it."""

import numpy as np

from netsim.engine.event.calendar import longer_heap
from netsim.engine.event.layout import packets
from netsim.engine.event.state import Remembered, State


def with_room_for_flows(state: State, identity: np.ndarray, size_bytes: np.ndarray) -> State:
    """Room for flows that begin, and for what must be remembered of their packets."""
    rules, totals, hosts = state.network.rules[0], state.network.totals[0], state.hosts
    flows = int(totals["flows"]) + len(identity)
    rows = int(totals["rows"] + (-(-size_bytes // rules["payload"])).sum())
    remembered, routing = hosts.remembered, state.routing
    if rules["recovery"] == 1 and rows > len(remembered.state):
        remembered = Remembered(*(_longer(array, rows) for array in remembered))
    if flows > len(hosts.flows):
        hosts = hosts._replace(
            flows=_longer(hosts.flows, flows),
            timers=longer_heap(hosts.timers, 3 * flows),
            turns=longer_heap(hosts.turns, flows),
        )
        if rules["entries"]:
            routing = routing._replace(paths=_longer(routing.paths, flows * int(rules["entries"])))
    return state._replace(hosts=hosts._replace(remembered=remembered), routing=routing)


def with_room_for_packets(state: State) -> State:
    """Twice as many packets, if all are in use."""
    network = state.network
    totals = network.totals[0]
    if totals["free_packet"] >= 0:
        return state
    used = len(network.packets)
    totals["free_packet"] = used
    return state._replace(network=network._replace(packets=np.concatenate([network.packets, packets(used)])))


def with_room_for_choices(state: State) -> State:
    """Twice as many choices of flows at switches, if all are in use."""
    chosen = state.routing.chosen
    if state.network.totals[0]["chosen"] < len(chosen):
        return state
    return state._replace(routing=state.routing._replace(chosen=_longer(chosen, len(chosen) + 1)))


def _longer(array: np.ndarray, needed: int) -> np.ndarray:
    """The array with room for at least so many rows, and at least half as many again as it had."""
    longer = np.zeros((max(needed, len(array) * 3 // 2), *array.shape[1:]), dtype=array.dtype)
    longer[: len(array)] = array
    return longer
