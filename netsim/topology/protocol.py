"""What the rest of the simulator knows about a fabric: directed links and the paths between hosts."""

from typing import NamedTuple, Protocol

Path = tuple[int, ...]


class Link(NamedTuple):
    """One direction of a cable, with the output queue in front of it.

    Args:
        name: Name in reports, unique in the fabric.
        rate_bps: Bits per second.
        delay_ps: Propagation delay in picoseconds.
    """

    name: str
    rate_bps: int
    delay_ps: int


class Topology(Protocol):
    """A fabric. Links are known by their index in `links`, hosts by 0..hosts-1."""

    @property
    def links(self) -> tuple[Link, ...]:
        """All directed links."""
        ...

    @property
    def hosts(self) -> int:
        """Number of hosts."""
        ...

    @property
    def ranks_per_host(self) -> int:
        """Number of ranks that share a host."""
        ...

    def leaf(self, host: int) -> int:
        """The first switch of a host; hosts of one leaf reach each other without a choice of path."""
        ...

    def paths(self, src: int, dst: int) -> tuple[Path, ...]:
        """All paths from host `src` to host `dst` that a transport may choose from, as link indices in order."""
        ...
