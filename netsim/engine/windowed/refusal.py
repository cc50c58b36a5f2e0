"""Scenes and transports that the windowed engine cannot simulate."""

from netsim.congestion.nscc import NsccConfig
from netsim.engine.event.refusal import refusal as by_event
from netsim.engine.protocol import Scene
from netsim.foundation.units import service_ps
from netsim.transport.protocol import Transport
from netsim.transport.switched import AdaptiveFlow


def refusal(scene: Scene, transport: Transport) -> str | None:
    """Why a run is not for the windowed engine; None if it is."""
    for link in scene.topology.links:
        if not link.delay_ps and link.src != link.dst:
            return f"link {link.name} has no delay, so that its ends are never independent of each other"
    if scene.ends_early and not _takes_time(scene):
        return "the run is over as it begins, and only background traffic goes on"
    if isinstance(scene.congestion, NsccConfig) and scene.congestion.marks == "departure":
        return "packets are marked as they leave, by what comes behind them in later windows"
    return by_event(scene, transport)


_WITH_QUEUES, _OF_THREAD = 1000, 200
"""Packets per window from which the windowed engine is faster with queues, and from which a further thread pays."""


def fills_windows(scene: Scene) -> bool:
    """Whether enough packets arrive in every window if all hosts send at the rate of their links.

    Windows have overhead: the event engine is faster on a fabric with fewer hosts, or shorter delays. The event engine
    is also taken where speed was not measured: receivers that send credits, links with errors, background traffic.
    """
    untried = scene.congestion.kind in ("receiver_credit", "ndp") or scene.link_errors is not None
    if untried or scene.ends_early:
        return False
    return _packets_of_window(scene) >= (_WITH_QUEUES if scene.queues else 1)


def threads_for(scene: Scene, transport: Transport, cores: int) -> int:
    """How many threads make a run fastest; at least 1, and no more than there are cores."""
    return max(1, min(cores, _packets_of_window(scene) // _OF_THREAD)) if splits(scene, transport) else 1


def splits(scene: Scene, transport: Transport) -> bool:
    """Whether a run may take several threads.

    Not if it ends early, for which all hosts receive in one order; if it watches links, whose intervals widen together;
    or if a flow's choices at several switches stand in one list.
    """
    in_order = scene.ends_early or isinstance(transport, AdaptiveFlow)
    return not in_order and (scene.watch is None or not scene.watch.links)


def _packets_of_window(scene: Scene) -> int:
    """Packets that arrive in a window, each once, if all hosts send at the rate of their links."""
    topology, size = scene.topology, scene.packet.payload + scene.packet.header
    between = [link.delay_ps for link in topology.links if link.src != link.dst]
    rate = max(topology.links[topology.up(host)].rate_bps for host in range(topology.hosts))
    return topology.hosts * min(between, default=0) // service_ps(size, rate)


def _takes_time(scene: Scene) -> bool:
    """Whether a task that is not background traffic sends something or has a delay."""
    columns = scene.tasks.columns()
    own = ~scene.tasks.in_background
    return bool(((columns.bytes[own] > 0) | (columns.delay_ps[own] > 0)).any())
