"""The protocol of congestion control: how many packets may be in flight, and how far apart they leave."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol, Self

from netsim.foundation.settings import Section
from netsim.foundation.units import service_ps
from netsim.topology.protocol import Link

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

    @classmethod
    def over(cls, links: Sequence[Link], packet_bytes: int, answer_bytes: int) -> Self:
        """The round trip over a path whose other direction has the same nominal rates and delays."""
        data = sum(service_ps(packet_bytes, link.rate_bps) + link.delay_ps for link in links)
        answer = sum(service_ps(answer_bytes, link.rate_bps) + link.delay_ps for link in links)
        slowest = max(service_ps(packet_bytes, link.rate_bps) for link in links)
        time_ps = data + answer
        return cls(time_ps, -(-time_ps // slowest), links[0].rate_bps, len(links), packet_bytes)


class Marking(NamedTuple):
    """When a queue sets ECN: never up to `above` bytes, always beyond `all_above`, between with growing probability."""

    above: int  # bytes
    all_above: int  # bytes
    at_most: float  # the largest probability up to `all_above`
    leaving: bool = False  # whether the queue counts that a packet leaves behind, and not the one that it finds


class Ack(NamedTuple):
    """An acknowledgement, positive or negative, that has arrived at the sender."""

    packets: int  # packets newly acknowledged; 0 if the packet was trimmed or had been acknowledged before
    marked: bool  # a queue on the path of the packet had marked or trimmed it
    notified: bool  # it carries a congestion notification (at most one an interval)
    round_trip_ps: int  # from the departure of the packet to now; that of a header if the packet was trimmed
    now_ps: int  # current time
    refused: bool = False  # it is negative
    in_flight: int = 0  # packets of the flow that are still in flight


class Congestion(Protocol):
    """Congestion control of one flow. Floating point in double precision, in the order written, on every engine."""

    def window(self) -> int:
        """Packets that may be in flight at once, at least 1; 0 while the sender must wait for a credit."""
        ...

    def gap_ps(self, wire_bytes: int, now_ps: int) -> int:  # noqa: ARG002
        """Least time from the packet that leaves now to the next, by default 0; called once for each packet."""
        return 0

    def on_ack(self, ack: Ack) -> None:
        """An acknowledgement has arrived at the sender."""

    def on_timeout(self, now_ps: int) -> None:
        """The retransmission timer has run out: packets are taken as lost."""

    def begin_message(self) -> None:
        """Another message of a queue pair begins, with the state that the latest one has left."""


class CongestionSettings(Section):
    """Section ``congestion``: the settings of a control, and what the engines ask about it."""

    core: ClassVar[str] = "Fixed"
    """The control in the core: the struct of its header in `engine/core/congestion`."""

    @property
    def fixed_window(self) -> int | None:
        """Initial window in packets, by the field ``window`` if there is one; None: a bandwidth-delay product (BDP)."""
        window = getattr(self, "window", UNLIMITED)
        return window if isinstance(window, int) else None

    @property
    def keeps_state(self) -> bool:
        """Whether a message continues with the state of its queue pair's latest message, by a field ``state``."""
        return getattr(self, "state", "message") == "queue_pair"

    @property
    def notify_ps(self) -> int | None:
        """Least time between two notifications of a flow by its receiver; None: receivers send none."""
        return None

    def marking(self, queue_bytes: int | None) -> Marking | None:  # noqa: ARG002
        """Marking rule of queues of at most `queue_bytes` (None: no limit); None: the rule of the transport."""
        return None

    def constants(self, trims: bool) -> Mapping[str, int | float]:  # noqa: ARG002
        """Values of all fields of the settings struct in the core's header; empty if there is no such struct."""
        return {}

    @abstractmethod
    def control(self, round_trip: RoundTrip, start_ps: int, trims: bool) -> Congestion:
        """The control of one flow.

        Args:
            round_trip: of the path that the flow may take first.
            start_ps: when the flow enters its host's ring.
            trims: whether switches trim packets.
        """
        ...
