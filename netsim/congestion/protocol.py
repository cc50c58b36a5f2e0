"""The protocol of congestion control: how many packets may be under way, and how far apart they leave."""

from typing import NamedTuple, Protocol

UNLIMITED = 2**31 - 1
"""A window without limit, in packets."""


class RoundTrip(NamedTuple):
    """The round trip of a flow when nothing else uses the network."""

    time_ps: int  # from the first bit of a full packet leaving to its acknowledgement
    # Full packets that the slowest link of the path serves in that time, rounded up: one bandwidth-delay product
    packets: int
    rate_bps: int  # rate of the host's link
    hops: int  # number of links of the path
    packet_bytes: int  # a full packet on the wire


class Congestion(Protocol):
    """Congestion control of one flow. Floating point in double precision, in the order written, on every engine."""

    def window(self) -> int:
        """Packets that may be under way at once, at least 1; 0 while the sender must wait for a credit."""
        ...

    def gap_ps(self, wire_bytes: int, now_ps: int) -> int:
        """Least time from the packet that leaves now to the next; called once for each packet that leaves."""
        ...

    def on_ack(
        self,
        packets: int,
        marked: bool,
        notified: bool,
        round_trip_ps: int,
        now_ps: int,
        refused: bool = False,
        in_flight: int = 0,
    ) -> None:
        """An acknowledgement, positive or negative, has arrived at the sender.

        Args:
            packets: Packets newly acknowledged; 0 if the packet was trimmed or had been acknowledged before.
            marked: A queue on the path of the packet had marked or trimmed it.
            notified: The acknowledgement carries a congestion notification (at most one an interval).
            round_trip_ps: From the departure of the packet to now.
            now_ps: Current time.
            refused: The acknowledgement is negative.
            in_flight: Packets of the flow that are still under way.
        """
        ...

    def on_timeout(self, now_ps: int) -> None:
        """The retransmission timer has run out: packets are taken as lost."""
        ...
