"""Scenes and transports that the exact engine cannot simulate."""

from itertools import pairwise

from netsim.engine.exact.injection import KINDS
from netsim.engine.exact.layout import layout_of
from netsim.engine.protocol import Scene
from netsim.topology.failure import NEVER
from netsim.transport.config import TransportConfig


def refusal(scene: Scene, transport: TransportConfig) -> str | None:
    """Why the exact engine cannot simulate a run; None if it can."""
    why = refusal_of_fabric(scene, transport)
    if why is None and layout_of(scene).messages is None:
        return "a message waits for another"
    return why


def refusal_of_fabric(scene: Scene, transport: TransportConfig) -> str | None:
    """Why the exact engine cannot simulate a run, dependencies between messages aside; None if it can."""
    if transport.kind not in KINDS:
        return f"{transport.kind} chooses paths by what it sees in the network"
    if getattr(transport, "entropies", None):
        return "paths follow from header values"
    for section in ("congestion", "recovery", "flow_control"):
        if getattr(scene, section).kind != "none":
            return f"{section} {getattr(scene, section).kind} makes senders depend on the network"
    if scene.ends_early:
        return "the run ends with background traffic under way"
    if scene.link_errors is not None:
        return "links have errors"
    if scene.watch is not None:
        return "links or flows are watched over time"
    if scene.queues:
        return "queues share memory or have classes"
    if scene.queue_bytes is not None:
        return "queues have a limit"
    if scene.rates.lossy or _surprised(scene):
        return "a link goes down, or is used while it is down"
    if layout_of(scene).inner is None:
        return "links feed each other in a circle"
    return None


def _surprised(scene: Scene) -> bool:
    """Whether the routing ever uses a link that is down, or stops using one after the beginning."""
    known = scene.rates.known_down()
    ends = [time for time, _ in known[1:]] + [NEVER]
    for (begin, down), end in zip(known, ends, strict=True):
        for link in scene.rates.changes:
            if link not in down and scene.rates.next_down(link, begin) < end:
                return True
    return any(later - earlier for (_, earlier), (_, later) in pairwise(known))
