"""Where ranks sit: the hosts of the fabric that carry each rank's traffic, to other machines and within its own."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from netsim.engine.protocol import Outcome, Scene
from netsim.topology.protocol import Topology, gpu_links
from netsim.workload.tasks import Tasks


class Seats(NamedTuple):
    """Hosts of the fabric by rank: of its adapter, for traffic to other machines, and of its GPU, for traffic inside.

    Empty `gpus`: ranks share their host's link inside. `machines` numbers the machine that a rank sits on.
    """

    hosts: Sequence[int]
    machines: Sequence[int]
    gpus: Sequence[int] = ()

    def of(self, ranks: Sequence[int]) -> "Seats":
        """The seats of some ranks."""
        return Seats(*(tuple(part[rank] for rank in ranks) if part else () for part in self))

    @property
    def ends(self) -> list[int]:
        """Host of each rank, then, with links of GPUs, once more of each rank: rank + number of ranks is its GPU."""
        return [*self.hosts, *self.gpus]


def seats_of(topology: Topology, places: Sequence[int]) -> Seats:
    """The seats of ranks by place, counted through all hosts."""
    hosts = [place // topology.ranks_per_host for place in places]
    gpus = gpu_links(topology)
    if gpus is None:
        return Seats(hosts, hosts)
    return Seats(hosts, [place // gpus.per_machine for place in places], [gpus.first + place for place in places])


def room(topology: Topology) -> int:
    """How many ranks fit on a fabric."""
    gpus = gpu_links(topology)
    return (topology.hosts if gpus is None else gpus.first) * topology.ranks_per_host


def with_gpu_links(tasks: Tasks, seats: Seats) -> Tasks:
    """Tasks whose messages within a machine take the links of GPUs; a rank's GPU has the number rank + ranks."""
    if not seats.gpus:
        return tasks
    columns, machines = tasks.columns(), np.asarray(seats.machines, dtype=np.int64)
    near = (machines[columns.src] == machines[columns.dst]) & (columns.src != columns.dst) & (columns.bytes > 0)
    shift = len(machines) * near
    return tasks.with_columns(columns._replace(src=columns.src + shift, dst=columns.dst + shift))


def name_ranks(scene: Scene, outcome: Outcome) -> None:
    """Names the ranks of flows between GPUs, in place: see `with_gpu_links`."""
    if gpu_links(scene.topology) is not None:
        for side in ("src", "dst"):
            outcome.flows[side] %= len(scene.hosts) // 2
