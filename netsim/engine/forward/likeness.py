"""Properties that messages must have in common for equal results."""

from typing import NamedTuple

from netsim.engine.protocol import Scene
from netsim.transport.config import EcmpConfig, EtherealConfig, SprayConfig, SubflowsConfig, TransportConfig


class Likeness(NamedTuple):
    """Inputs of a message's result besides its source, destination and size."""

    drawn_alone: bool  # on its key, even if its host releases no other at that moment
    drawn_together: bool  # on its key and those of the others that its host releases at that moment
    # If it is released alone, on its ends only by the rates and delays of the links on its flows' paths, so that
    # messages of other hosts may be like it
    by_path: bool

    @property
    def overlaps(self) -> bool:
        """Whether the ranks of a collective may end at different times, so that they enter the next one apart."""
        return self.drawn_together or not self.by_path


def likeness_of(scene: Scene, transport: TransportConfig) -> Likeness:
    """The likeness of a run's messages; the transport is one that keeps no state from message to message."""
    given = isinstance(transport, EtherealConfig) and transport.order != "nic"
    order_is_drawn = scene.nic.destinations == "random" and not given
    match transport:
        case EcmpConfig():
            return Likeness(drawn_alone=False, drawn_together=order_is_drawn, by_path=True)
        case EtherealConfig() | SubflowsConfig():
            drawn = order_is_drawn or (isinstance(transport, EtherealConfig) and _draws(transport))
            return Likeness(drawn_alone=drawn, drawn_together=drawn, by_path=not drawn)
        case SprayConfig():
            return Likeness(drawn_alone=True, drawn_together=True, by_path=False)
        case _:
            return Likeness(drawn_alone=False, drawn_together=order_is_drawn, by_path=False)


def _draws(transport: EtherealConfig) -> bool:
    shuffles = transport.randomise and transport.order != "staggered"
    return shuffles or transport.order == "published" or transport.start_delay > 0
