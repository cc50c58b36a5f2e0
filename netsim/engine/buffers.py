"""Limits of what switches hold, shared by the engines: thresholds of pauses, headroom, and shared memory."""

from typing import NamedTuple

from netsim.engine.protocol import Scene
from netsim.foundation.units import PICOSECONDS_PER_SECOND
from netsim.topology.protocol import sources


class Limits(NamedTuple):
    """Delays of pause frames, and memory limits in bytes: of each link into a switch, and of each switch."""

    pause_delay_ps: list[int]  # how long a pause frame takes to the begin of a link that leads to it
    headroom: list[int]  # of each link, what a switch may receive from it in one class after pausing it
    source: list[int]  # number of the node at which each link begins
    # Of each node, shared memory without the headroom of all links that lead to it; empty without a buffer
    pool: list[int]


def limits_of(scene: Scene) -> Limits:
    links, control = scene.topology.links, scene.flow_control
    source = sources(scene.topology)
    pause_delay_ps = [links[scene.topology.reverse(index)].delay_ps for index in range(len(links))]
    headroom = [0] * len(links)
    if control.kind == "pfc":
        largest = max(scene.packet.payload + scene.packet.header, scene.acknowledgement.size)
        for index, (link, back_ps) in enumerate(zip(links, pause_delay_ps, strict=True)):
            on_its_route = -(-link.rate_bps * (link.delay_ps + back_ps) // (8 * PICOSECONDS_PER_SECOND))
            automatic = on_its_route + 2 * largest
            headroom[index] = automatic if control.headroom == "auto" else control.headroom
    pool: list[int] = []
    if scene.buffer is not None:
        pool = [scene.buffer.size] * (max(source) + 1)
        for index in range(len(links)):
            pool[source[scene.topology.reverse(index)]] -= scene.classes * headroom[index]
    return Limits(pause_delay_ps, headroom, source, pool)
