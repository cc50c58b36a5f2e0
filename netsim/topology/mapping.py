"""The rank map: the hosts of the fabric that carry the traffic of each rank, to other machines and within its own."""

from collections.abc import Sequence
from typing import NamedTuple

from netsim.topology.protocol import Topology, gpu_links


class RankMap(NamedTuple):
    """Fabric hosts of each rank: its adapter for traffic to other machines, and its GPU for traffic inside its machine.

    Empty `gpus`: ranks share their host's link inside. `machines` numbers the machine that a rank sits on.
    """

    hosts: Sequence[int]
    machines: Sequence[int]
    gpus: Sequence[int] = ()

    def of(self, ranks: Sequence[int]) -> "RankMap":
        """The mapping of some ranks."""
        return RankMap(*(tuple(part[rank] for rank in ranks) if part else () for part in self))

    @property
    def ends(self) -> list[int]:
        """Adapter of each rank and, with links of GPUs, GPU of each rank at index rank + number of ranks."""
        return [*self.hosts, *self.gpus]


def rank_map(topology: Topology, places: Sequence[int]) -> RankMap:
    """The mapping of ranks by place, counted through all hosts."""
    hosts = [place // topology.ranks_per_host for place in places]
    gpus = gpu_links(topology)
    if gpus is None:
        return RankMap(hosts, hosts)
    return RankMap(hosts, [place // gpus.per_machine for place in places], [gpus.first + place for place in places])


def capacity(topology: Topology) -> int:
    """How many ranks fit on a fabric."""
    gpus = gpu_links(topology)
    return (topology.hosts if gpus is None else gpus.first) * topology.ranks_per_host
