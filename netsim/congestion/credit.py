"""Receiver-driven control: after a first window a sender sends what its receiver has asked for, and no more.

A receiver knows who wants to send to it, and hands out its own link's rate, in turn, as credits that travel as control
packets. `receiver_credit` is the receiver-credit control of the Ultra Ethernet Specification 1.0, section 3.6.14:
credits for several packets, ahead of what has come. `ndp` asks for a packet for each packet or header that has come.
Handley et al.: Re-architecting datacenter networks and stacks for low latency and high performance, SIGCOMM 2017.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from netsim.congestion.protocol import UNLIMITED, Ack, Congestion, CongestionSettings, RoundTrip
from netsim.congestion.window import Packets, initial


class ReceiverCreditConfig(CongestionSettings):
    """Section ``congestion`` of kind ``receiver_credit``.

    Args:
        window: Initial window: packets that a sender sends before its receiver asks for any; bdp: one bandwidth-delay
            product.
        outstanding: Largest number of packets that a receiver expects of a flow at once. It asks for no more until some
            have come. bdp: 1.5 bandwidth-delay products.
        grant: Largest number of packets that one credit grants.
        pace: Rate at which a receiver hands out credits, as a share of its link's rate.
    """

    core: ClassVar[str] = "Credit"
    kind: Literal["receiver_credit"]
    window: Packets = "bdp"
    outstanding: Packets = "bdp"
    grant: Annotated[int, Field(ge=1, le=2**20)] = 4
    pace: Annotated[float, Field(gt=0, le=1)] = 0.99

    def ahead(self, round_trip: RoundTrip) -> int:
        """Packets beyond the first window that a receiver expects at once, at least 0."""
        most = self.outstanding if self.outstanding != "bdp" else (3 * round_trip.packets + 1) // 2
        return max(0, most - initial(self.window, round_trip))

    def constants(self, trims: bool) -> dict[str, int | float]:  # noqa: ARG002
        most = -1 if self.outstanding == "bdp" else self.outstanding
        return {"grant": self.grant, "pace": self.pace, "outstanding": most}

    def control(self, round_trip: RoundTrip, start_ps: int, trims: bool) -> Congestion:  # noqa: ARG002
        return Credited(self, round_trip)


class NdpConfig(CongestionSettings):
    """Section ``congestion`` of kind ``ndp``.

    Args:
        window: Initial window: packets that a sender sends before its receiver asks for any; bdp: one bandwidth-delay
            product.
        pace: Rate at which a receiver asks for packets, as a share of its link's rate.
    """

    core: ClassVar[str] = "Credit"
    kind: Literal["ndp"]
    window: Packets = "bdp"
    pace: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def grant(self) -> int:
        """Packets that a receiver asks for at a time."""
        return 1

    def ahead(self, round_trip: RoundTrip) -> int:  # noqa: ARG002
        """Returns 0: a receiver expects no more packets at once than the first window has."""
        return 0

    def constants(self, trims: bool) -> dict[str, int | float]:  # noqa: ARG002
        return {"grant": self.grant, "pace": self.pace, "outstanding": 0}

    def control(self, round_trip: RoundTrip, start_ps: int, trims: bool) -> Congestion:  # noqa: ARG002
        return Credited(self, round_trip)


class Credited(Congestion):
    """The sender of one flow.

    Packets that count as lost without a header give their credit back: the receiver does not know of them.
    """

    def __init__(self, config: ReceiverCreditConfig | NdpConfig, round_trip: RoundTrip) -> None:
        self.credit = self.unasked = initial(config.window, round_trip)
        self.ahead = config.ahead(round_trip)
        self._granted = self._in_flight = 0

    def window(self) -> int:
        """No limit while there is credit, and 0 without."""
        return UNLIMITED if self.credit > 0 else 0

    def gap_ps(self, wire_bytes: int, now_ps: int) -> int:  # noqa: ARG002
        """Takes a credit for the packet that leaves; returns 0."""
        self.credit -= 1
        self._in_flight += 1
        return 0

    def on_credit(self, granted: int) -> None:
        """Takes a credit. `granted` counts all packets so far, so that the next credit makes up for a lost one."""
        if granted > self._granted:
            self.credit += granted - self._granted
            self._granted = granted

    def on_ack(self, ack: Ack) -> None:
        """Takes back the credit of packets that the acknowledgement shows to be lost."""
        self.credit += max(0, self._in_flight - ack.in_flight - 1)
        self._in_flight = ack.in_flight

    def on_timeout(self, now_ps: int) -> None:  # noqa: ARG002
        """Counts all packets in flight as lost. Leaves one credit: the receiver may not know that more will come."""
        self.credit = max(1, self.credit + self._in_flight)
        self._in_flight = 0
