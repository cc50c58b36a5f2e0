"""Keys that all topologies take: queue, buffer, link_errors and ranks_per_host; and how large a fabric may be."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from netsim.foundation.settings import Section
from netsim.foundation.units import Size, format_size, parse_size

MOST_LINKS = 4_000_000
RanksPerHost = Annotated[int, Field(gt=0, le=1_024)]


def refuse_too_many(links: int) -> None:
    """Refuses more than `MOST_LINKS` directed links."""
    if links > MOST_LINKS:
        raise ValueError(f"these are {links:,} links; take a smaller fabric, {MOST_LINKS:,} are possible")


def _room(value: object) -> int | None:
    if value is None or value == "unlimited":
        return None
    room = parse_size(value)
    if not room:
        raise ValueError("a queue without room passes nothing; write a size such as 800KB, or unlimited")
    return room


Queue = Annotated[
    int | None,
    BeforeValidator(_room),
    PlainSerializer(lambda room: "unlimited" if room is None else format_size(room), return_type=str),
    WithJsonSchema({"type": "string", "x-values": "size such as 800KB | unlimited"}),
]
"""Bytes of unfinished work that may wait in front of a link, None without limit; ``unlimited`` or a size."""


MILLION = 10**6


class SharedBufferConfig(Section):
    """Section ``topology.buffer`` of kind ``shared``: all queues of a switch share its memory, by dynamic thresholds.

    A queue takes a packet while its length is less than `alpha` times the memory that is free. With n queues that are
    always full, each holds alpha * size / (1 + n * alpha). Choudhury and Hahne: Dynamic queue length thresholds for
    shared-memory packet switches, IEEE/ACM Transactions on Networking 1998.

    Args:
        size: Packet memory of a switch.
        alpha: Limit of a queue's length, as a multiple of the free memory of the switch; rounded to a millionth.
    """

    kind: Literal["shared"]
    size: Annotated[Size, Field(gt=0, le=64 * 10**9)]
    alpha: float = Field(default=1.0, ge=0.001, le=100)

    @property
    def millionths(self) -> int:
        """`alpha` in millionths, so that thresholds are whole numbers of bytes."""
        return round(self.alpha * MILLION)


class LinkErrorsConfig(Section):
    """Section ``topology.link_errors``: packets that are corrupted on the way over a cable, each drawn by itself.

    Links inside hosts have no errors, nor has the control lane. With retry the link sends a corrupted packet again
    after its round trip, and packets behind it wait: go-back-N, as link-level retry of Ultra Ethernet 1.0 does it.

    Args:
        rate: Share of packets that are corrupted on each link.
        retry: Repair of a corrupted packet. link: the link sends it again; none: it is lost, and its sender has to
            repeat it.
    """

    rate: float = Field(gt=0, le=0.1)
    retry: Literal["link", "none"] = "link"
