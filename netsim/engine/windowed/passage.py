"""Where packets go that leave a link."""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Queued, Record, State, Whole
from netsim.engine.event.transit import GONE, HELD
from netsim.engine.windowed.wheel import Wheel, put


@compiled
def send(state: State, wheel: Wheel, packet: Record, link: int, arrives: int) -> None:
    """Puts a packet that leaves a link into the wheel, unless it waits in a queue, or is gone."""
    if arrives == HELD:
        _hold(state.queued, wheel, packet)
    elif arrives != GONE:
        unit = _next_unit(state, wheel, packet, link)
        region = wheel.region[unit if unit >= 0 else np.int64(state.network.links[link].reverse)]
        put(wheel, packet, unit, region, arrives)


@compiled
def _hold(queued: Queued | None, wheel: Wheel, packet: Record) -> None:
    """Keeps a packet that waits in a queue."""
    if queued is not None:
        notes = queued.notes[0]
        wheel.held[notes.packet] = packet
        notes.packet = wheel.next_held[notes.packet]


@compiled
def _next_unit(state: State, wheel: Wheel, packet: Record, link: int) -> Whole:
    """The unit at which a packet arrives that leaves a link: a switch, or a host's link.

    -1 for the first and the last link behind a switch: they are found when the packet is taken out of the wheel. For
    those between, the packet's way has been read already.
    """
    if packet.hop == packet.links:
        return np.int64(state.hosts.flows[packet.flow].back if packet.control else state.network.links[link].reverse)
    if wheel.window[0].by_switch:
        return np.int64(len(state.network.links) + state.routing.source[state.network.links[link].reverse])
    if 2 <= packet.hop < packet.links - 1 and not packet.control:
        return np.int64(state.routing.way_links[packet.way, packet.hop - 1])
    return np.int64(-1)
