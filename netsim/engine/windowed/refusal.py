"""Scenes and transports that the windowed engine cannot simulate."""

from netsim.engine.event.refusal import refusal as by_event
from netsim.engine.protocol import Scene
from netsim.transport.protocol import Transport


def refusal(scene: Scene, transport: Transport) -> str | None:
    """Why a run is not for the windowed engine; None if it is."""
    if scene.recovery.kind != "none" or scene.limits.simulated is not None:
        return "timers that move up, and the limit of simulated time, are not in the windowed engine"
    for link in scene.topology.links:
        if not link.delay_ps and link.src != link.dst:
            return f"link {link.name} has no delay, so that its ends are never independent of each other"
    if scene.ends_early:
        return "the run ends while background traffic goes on"
    if scene.queues:
        return "pauses, shared memory and classes need the event engine"
    return by_event(scene, transport)
