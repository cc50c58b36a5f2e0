"""Runs in which nothing can be skipped."""

from netsim.engine.exact.layout import layout_of
from netsim.engine.exact.refusal import refusal_of_fabric
from netsim.engine.protocol import Scene
from netsim.transport.config import EcmpConfig, EtherealConfig, SubflowsConfig, TransportConfig

_FOLLOWED = ("packet", "nic", "acknowledgement", "limits")
"""Fields of a scene that may have any value; without answers those of `acknowledgement` do not matter."""


def refusal(scene: Scene, transport: TransportConfig) -> str | None:
    """Why nothing of a run can be skipped; None if something might.

    Args:
        scene: The scene.
        transport: The transport.
    """
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
        case EcmpConfig():
            return None
        case EtherealConfig() if _draws(transport):
            return "the transport draws by the number of a message"
        case EtherealConfig() | SubflowsConfig() if _order_is_drawn(scene, transport):
            return "the order of flows is drawn by their number"
        case EtherealConfig() | SubflowsConfig():
            return None
        case _:
            return "the transport keeps state from message to message, or draws by the number of a message"


def shares_groups(scene: Scene, transport: TransportConfig) -> bool:
    """Whether equal messages that a host releases in one instant are sent alike wherever they occur."""
    return not _order_is_drawn(scene, transport)


def _draws(transport: EtherealConfig) -> bool:
    shuffles = transport.randomise and transport.order != "staggered"
    return shuffles or transport.order == "published" or transport.start_delay > 0


def _order_is_drawn(scene: Scene, transport: TransportConfig) -> bool:
    given = isinstance(transport, EtherealConfig) and transport.order != "nic"
    return scene.nic.destinations == "random" and not given
