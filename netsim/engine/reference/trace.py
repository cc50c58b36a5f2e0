"""The events of a run, for ``python -m tests.first_difference``, which compares them with those of the core."""

from typing import NamedTuple

from netsim.engine.reference.connection import Packet


class Traced(NamedTuple):
    """An event of a packet, a flow or a queue; equal in every engine.

    Args:
        time_ps: When.
        what: ``queued`` in front of a link, ``departed`` from it, ``marked``, ``trimmed`` or ``dropped``; ``received``
            from its last link; ``acknowledged`` or ``credited`` at the sender; ``timed out``; ``paused`` or ``resumed``
            by a pause frame. What passes a link in the control lane neither queues there nor departs.
        link: The link; of a pause frame the queue, ``link * classes + class``; otherwise -1.
        flow: Id of the flow; -1 of a pause frame.
        serial: Number of the transmission within the flow; -1 without a packet.
        control: Whether the packet is a control packet.
        value: The window in packets after an acknowledgement, a credit or a timeout; otherwise the data packet's
            sequence, or 0.
    """

    time_ps: int
    what: str
    link: int
    flow: int
    serial: int
    control: bool
    value: int


class Trace(list[Traced]):
    """The events of a run, in the order in which an engine knows of them."""

    def add(self, time_ps: int, what: str, link: int, packet: Packet, value: int | None = None) -> None:
        """Adds an event of a packet."""
        shown = (0 if packet.control else packet.sequence) if value is None else value
        self.append(Traced(time_ps, what, link, packet.connection.flow.id, packet.serial, packet.control, shown))
