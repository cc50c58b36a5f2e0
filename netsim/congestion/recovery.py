"""Loss recovery: the state that sender and receiver of a flow keep until every packet has arrived."""

from typing import Annotated, Literal, NamedTuple, Protocol

from pydantic import Field

from netsim.congestion.timeout import TimeoutConfig


class NoRecoveryConfig(TimeoutConfig):
    """Section ``recovery`` of kind ``none``: nothing may be lost. Timeouts are accepted so that a scenario can change
    the kind alone.
    """

    kind: Literal["none"] = "none"

    def recovery(self, packets: int) -> "Recovery":
        """Creates the state of both ends of a flow of `packets` packets."""
        return Selective(packets)


class GoBackNConfig(TimeoutConfig):
    """Section ``recovery`` of kind ``go_back_n``: the receiver takes packets in order only, as RoCE adapters do. After
    a timeout the sender goes back to the first packet not acknowledged.
    """

    kind: Literal["go_back_n"]

    def recovery(self, packets: int) -> "Recovery":
        """Creates the state of both ends of a flow of `packets` packets."""
        return GoBackN(packets)


class SelectiveConfig(TimeoutConfig):
    """Section ``recovery`` of kind ``selective``: packets are taken in any order, only lost ones are sent again. After
    a timeout all packets in flight count as lost.

    Args:
        reordering: Largest distance, in transmissions, by which a packet may be overtaken: it counts as lost when a
            packet that left later by more than this is acknowledged. null: only timeouts and trimmed headers show
            losses. A single path needs 0, spraying as many as packets may overtake each other by.
    """

    kind: Literal["selective"]
    reordering: Annotated[int, Field(ge=0)] | None = None

    def recovery(self, packets: int) -> "Recovery":
        """Creates the state of both ends of a flow of `packets` packets."""
        return Selective(packets, self.reordering)


RecoveryConfig = Annotated[NoRecoveryConfig | GoBackNConfig | SelectiveConfig, Field(discriminator="kind")]


class Reply(NamedTuple):
    """A receiver's answer to a packet. `accepted`: the packet is new; `expected`: first missing packet, go-back-N only.

    `refusal`: the answer is a negative acknowledgement (NACK); None: there is no answer.
    """

    accepted: bool
    refusal: bool | None
    expected: int


class Recovery(Protocol):
    """Both ends of one flow. Packets are numbered by their place in the flow, transmissions by their serial."""

    @property
    def in_flight(self) -> int:
        """Packets in flight by the sender's count."""
        ...

    def pending(self) -> bool:
        """Whether there is a packet to send."""
        ...

    def take(self, serial: int) -> int:
        """Returns the number of the packet to send as transmission `serial`."""
        ...

    def acknowledged(self, sequence: int, serial: int, expected: int) -> int:
        """An acknowledgement has arrived; returns the number of packets newly acknowledged."""
        ...

    def refused(self, sequence: int, serial: int, expected: int) -> int:
        """A negative acknowledgement has arrived; returns the number of packets newly acknowledged."""
        ...

    def timed_out(self) -> None:
        """The timeout has passed without progress."""
        ...

    def received(self, sequence: int) -> Reply:
        """A packet has arrived at the receiver."""
        ...


class Selective:
    """Every packet is acknowledged by itself; lost packets are sent again in their order, before new ones.

    `reordering` is None also where nothing is ever lost.
    """

    def __init__(self, packets: int, reordering: int | None = None) -> None:
        self._packets, self._reordering = packets, reordering
        self._next = 0
        self._acked = bytearray(packets)
        self._received = bytearray(packets)
        self._lost: set[int] = set()
        self._unacknowledged: dict[int, int] = {}
        self.in_flight = 0

    def pending(self) -> bool:
        """Whether a packet waits to be sent, for the first time or again."""
        return bool(self._lost) or self._next < self._packets

    def take(self, serial: int) -> int:
        """Returns the first lost packet, or else the next new packet."""
        if self._lost:
            sequence = min(self._lost)
            self._lost.remove(sequence)
        else:
            sequence = self._next
            self._next += 1
        self._unacknowledged[serial] = sequence
        self.in_flight += 1
        return sequence

    def acknowledged(self, sequence: int, serial: int, expected: int) -> int:  # noqa: ARG002
        """A late acknowledgement of a packet that counts as lost cancels its next transmission."""
        if self._unacknowledged.pop(serial, None) is not None:
            self.in_flight -= 1
        newly = 1 - self._acked[sequence]
        self._acked[sequence] = 1
        self._lost.discard(sequence)
        if self._reordering is not None:
            self._lose_before(serial - self._reordering)
        return newly

    def refused(self, sequence: int, serial: int, expected: int) -> int:  # noqa: ARG002
        """Counts a trimmed packet as lost, so that it is sent again."""
        if self._unacknowledged.pop(serial, None) is not None:
            self.in_flight -= 1
            self._lose(sequence)
        return 0

    def timed_out(self) -> None:
        """All packets in flight count as lost."""
        self._lose_before(2**62)

    def received(self, sequence: int) -> Reply:
        """Acknowledges every packet, also a duplicate."""
        accepted = not self._received[sequence]
        self._received[sequence] = 1
        return Reply(accepted, False, 0)

    def _lose_before(self, limit: int) -> None:
        """Counts all transmissions with serials below `limit` as lost."""
        while self._unacknowledged and (serial := next(iter(self._unacknowledged))) < limit:
            self.in_flight -= 1
            self._lose(self._unacknowledged.pop(serial))

    def _lose(self, sequence: int) -> None:
        if not self._acked[sequence]:
            self._lost.add(sequence)


class GoBackN:
    """The receiver takes the expected packet only and reports a gap once; the sender then goes back to the gap.

    After a timeout packets are sent one at a time until there is progress. If all were sent again at once, a later
    packet that overtakes could push the expected one out of a full queue again and again.
    """

    def __init__(self, packets: int) -> None:
        self._packets = packets
        self._next = self._acked = 0
        self._expected = 0
        self._complained = -1
        self._alone = False

    @property
    def in_flight(self) -> int:
        """Packets sent from the first unacknowledged one on."""
        return self._next - self._acked

    def pending(self) -> bool:
        """Whether a packet may be sent; after a timeout only one is in flight."""
        return self._next < self._packets and not (self._alone and self.in_flight)

    def take(self, serial: int) -> int:  # noqa: ARG002
        """The next packet in order."""
        self._next += 1
        return self._next - 1

    def acknowledged(self, sequence: int, serial: int, expected: int) -> int:  # noqa: ARG002
        """Acknowledges everything before `expected`."""
        newly = max(0, expected - self._acked)
        self._acked += newly
        self._next = max(self._next, self._acked)
        if newly:
            self._alone = False
        return newly

    def refused(self, sequence: int, serial: int, expected: int) -> int:
        """Acknowledges everything before `expected`, and goes back to it unless that was done already."""
        old = expected < self._acked
        newly = self.acknowledged(sequence, serial, expected)
        if not old:
            self._next = self._acked
        return newly

    def timed_out(self) -> None:
        """Goes back to the first packet not acknowledged, and sends packets one at a time."""
        self._next = self._acked
        self._alone = True

    def received(self, sequence: int) -> Reply:
        """Accepts the expected packet only; answers a gap with one NACK until the missing packet has arrived."""
        if sequence == self._expected:
            self._expected += 1
            return Reply(True, False, self._expected)
        if sequence < self._expected:
            return Reply(False, False, self._expected)
        if self._complained == self._expected:
            return Reply(False, None, self._expected)
        self._complained = self._expected
        return Reply(False, True, self._expected)
