"""Windows without feedback: none at all, or a fixed one."""

from typing import Annotated, Literal

from pydantic import Field

from netsim.congestion.protocol import UNLIMITED, Congestion, CongestionSettings, RoundTrip

Packets = Annotated[int, Field(ge=1, le=2**20)] | Literal["bdp"]
"""A number of packets, or ``bdp``: one bandwidth-delay product of the flow's own path."""


StateOf = Literal["message", "queue_pair"]
"""How long the state of congestion control lasts. A queue pair is a source rank, a destination rank, and the place of a
flow among the flows of its message."""


class NoneConfig(CongestionSettings):
    """Section ``congestion`` of kind ``none``: hosts send at line rate."""

    kind: Literal["none"] = "none"

    def control(self, round_trip: RoundTrip, start_ps: int, trims: bool) -> Congestion:  # noqa: ARG002
        return FixedWindow()


class WindowConfig(CongestionSettings):
    """Section ``congestion`` of kind ``window``.

    Args:
        window: Fixed window: packets of a flow in flight at once; bdp: one bandwidth-delay product.
    """

    kind: Literal["window"]
    window: Packets = "bdp"

    def control(self, round_trip: RoundTrip, start_ps: int, trims: bool) -> Congestion:  # noqa: ARG002
        return FixedWindow(initial(self.window, round_trip))


def initial(window: int | str, round_trip: RoundTrip) -> int:
    """The initial window in packets: `window` if it is a number, else a bandwidth-delay product."""
    return window if isinstance(window, int) else round_trip.packets


class FixedWindow(Congestion):
    """A constant number of packets in flight."""

    def __init__(self, packets: int = UNLIMITED) -> None:
        self._packets = packets

    def window(self) -> int:
        """Returns the constant window in packets."""
        return self._packets
