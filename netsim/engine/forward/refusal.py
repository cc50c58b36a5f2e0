"""Runs in which fast-forward can skip nothing."""

import numpy as np

from netsim.engine.exact.layout import Layout, layout_of
from netsim.engine.exact.messages import placed
from netsim.engine.exact.refusal import refusal_of_fabric
from netsim.engine.forward.likeness import likeness_of
from netsim.engine.protocol import Scene
from netsim.transport.config import (
    EcmpConfig,
    EtherealConfig,
    PlainConfig,
    SprayConfig,
    SubflowsConfig,
    TransportConfig,
)

_FOLLOWED = ("packet", "nic", "acknowledgement", "limits")
"""Fields of a scene that may have any value; those of `acknowledgement` do not matter without acknowledgements."""


def refusal(scene: Scene, transport: TransportConfig) -> str | None:
    """Why nothing of a run can be skipped; None if something might."""
    why = refusal_of_fabric(scene, transport)
    if why is not None:
        return why
    for name, usual in Scene._field_defaults.items():
        if name not in _FOLLOWED and getattr(scene, name) != usual:
            return f"{name} lets packets of different links depend on each other"
    layout = layout_of(scene)
    if layout.messages is not None:
        return "no message waits for another"
    if len(layout.fabric.epoch_ps) > 1 or len(layout.fabric.change_ps) > len(layout.fabric.delay_ps):
        return "rates change"
    match transport:
        case EcmpConfig() | EtherealConfig() | SubflowsConfig() | SprayConfig():
            pass
        case PlainConfig(kind="drb" | "spray_round_robin"):
            if _turns_on(scene, layout, transport):
                return "paths are taken in turn, and a message does not end with the last"
        case _:
            return "the transport keeps state from message to message"
    if scene.tasks.keys is None and likeness_of(scene, transport).drawn_alone:
        return "draws depend on the number of a message, and no two have the same"
    return None


def _turns_on(scene: Scene, layout: Layout, transport: TransportConfig) -> bool:
    """Whether the first path of a message depends on the messages that its host has sent before."""
    columns, hosts, fabric = layout.columns, np.asarray(scene.hosts, dtype=np.int64), layout.fabric
    tasks = np.flatnonzero(columns.bytes)
    messages = placed(columns, None, tasks, np.zeros_like(tasks), hosts, fabric)
    outside = messages.src_host != messages.dst_host
    routes = np.diff(fabric.usable_begin)[messages.usable[outside]]
    if transport.kind == "spray_round_robin":
        routes = np.lcm.reduce(np.unique(routes), initial=1)
    packets = -(-messages.bytes[outside] // scene.packet.payload)
    return bool((packets % routes).any())
