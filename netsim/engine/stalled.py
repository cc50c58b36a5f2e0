"""The error for a run in which some tasks never end."""

from netsim.engine.protocol import Scene
from netsim.foundation.refusal import Refusal


def stalled(scene: Scene, waiting: list[int]) -> Refusal:
    """The error for tasks that have begun, wait for no other task, and never end."""
    first = scene.tasks[waiting[0]]
    problem = f"{len(waiting)} messages never arrive, among them one of {first.bytes} B from rank {first.src} to rank"
    if scene.flow_control.kind == "pfc":
        remedy = "links pause each other in a circle: change the topology or raise flow_control.pause_above"
        return Refusal("scenario", "flow_control", f"{problem} {first.dst}", remedy)
    if scene.recovery.kind != "none":
        remedy = "all links they would take are down for good: give the failure an until, or take another transport"
        return Refusal("scenario", "topology.failures", f"{problem} {first.dst}", remedy)
    remedy = "packets were lost for good: set recovery.kind to go_back_n or selective"
    return Refusal("scenario", "recovery", f"{problem} {first.dst}", remedy)
