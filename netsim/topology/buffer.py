"""The key ``buffer`` of all topologies: memory that the queues of a switch share."""

from typing import Annotated, Literal

from pydantic import Field

from netsim.section import Section
from netsim.units import Size

MILLION = 10**6


class SharedBufferConfig(Section, frozen=True):
    """Section ``topology.buffer`` of kind ``shared``: all queues of a switch share its memory, by dynamic thresholds.

    A queue takes a packet while its length is less than `alpha` times the memory that is free. With n queues that are
    always full, each holds alpha * size / (1 + n * alpha). Choudhury and Hahne: Dynamic queue length thresholds for
    shared-memory packet switches, IEEE/ACM Transactions on Networking 1998.

    Args:
        size: Memory of a switch.
        alpha: Length that a queue may have, as a multiple of the free memory; taken to a millionth.
    """

    kind: Literal["shared"]
    size: Annotated[Size, Field(gt=0, le=64 * 10**9)]
    alpha: float = Field(default=1.0, ge=0.001, le=100)

    @property
    def millionths(self) -> int:
        """`alpha` in millionths, so that thresholds are whole numbers of bytes."""
        return round(self.alpha * MILLION)
