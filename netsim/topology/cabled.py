"""The base of fabrics that number links by cable: cables of hosts first, then those between switches."""

from collections.abc import Sequence
from typing import NamedTuple

from netsim.topology.protocol import Link


class Cable(NamedTuple):
    """Two links, one in each direction; a host's begins at the host. Parallel ones have a suffix, as ``.1``."""

    first: str
    second: str
    rate_bps: int
    delay_ps: int
    suffix: str = ""


class CabledFabric:
    """Cable c is link c from its first end to its second, and link len(cables) + c back; links inside hosts are last.

    Cable h, for h below `hosts`, is that of host h. The link inside a host has no delay.
    """

    def __init__(self, cables: Sequence[Cable], hosts: int, ranks_per_host: int, intra_host_rate: int) -> None:
        self.hosts = hosts
        self.ranks_per_host = ranks_per_host
        self.cables = len(cables)
        self.links = (
            *(Link(f"{a}-{b}{suffix}", a, b, rate, delay) for a, b, rate, delay, suffix in cables),
            *(Link(f"{b}-{a}{suffix}", b, a, rate, delay) for a, b, rate, delay, suffix in cables),
            *(Link(f"{host}-inside", host, host, intra_host_rate, 0) for host, *_ in cables[:hosts]),
        )

    def up(self, host: int) -> int:
        """See `netsim.topology.protocol.Topology`, as for all that follows."""
        return host

    def down(self, host: int) -> int:
        """The way back on the host's cable."""
        return self.cables + host

    def inside(self, host: int) -> int:
        """Behind the links of the cables."""
        return 2 * self.cables + host

    def reverse(self, link: int) -> int:
        """As many links away as there are cables."""
        if link >= 2 * self.cables:
            return link
        return link + self.cables if link < self.cables else link - self.cables
