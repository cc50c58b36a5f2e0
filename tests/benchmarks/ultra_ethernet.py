"""Last flows beside uet-htsim, which models Ultra Ethernet: python -m tests.benchmarks.ultra_ethernet.

The reference figures are last flows of uet-htsim for the same messages, seed by seed, on the same fabrics with packets
of 4,086 + 64 B, links of 100 Gbps and 1 us, queues of one bandwidth-delay product that trim, marks from 20 to 80 % of a
queue, 64 header values, and one acknowledgement for four packets. They say when the sender knows that its flow is
complete. This simulator says when the last byte arrives; the acknowledgement's way back is added: 6.0 us on three
tiers, 4.0 us on two.

Both sides mark a packet by the queue that it leaves behind. Marks by the queue that it finds are older by its own wait:
in uet-htsim, changed to mark so, 1,024 hosts on three tiers trim twice as many packets under REPS (457 and 222 with
seed 1), and a few last flows come late. Both take header values in rounds when spraying: with drawn ones the last flow
of 128 hosts comes 5 % later, in uet-htsim too (256 and 244 us).

What is left has three causes. Receivers acknowledge several packets at once there, each by itself here: uet-htsim with
an acknowledgement for each packet needs 233 us for 128 hosts under spraying, 5 % less than as it is, and so do we,
which misses the bar. Control packets wait for the data packet in service there, up to 0.33 us a link. And a full queue
trims its newest packet or the one that comes, by a coin. The rest is chance: one unlucky flow decides the end, so that
the table has standard errors of the means, and of their difference by seed. The bar is 3 % on the mean over seeds.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

from netsim.engine.event.engine import EventEngine
from netsim.engine.protocol import Scene
from netsim.foundation.units import service_ps
from netsim.topology.fat_tree import FatTree, FatTreeConfig
from netsim.topology.leaf_spine import LeafSpine, LeafSpineConfig
from netsim.topology.protocol import Topology
from netsim.workload.tasks import Task
from tests.benchmarks.htsim.last_flows import LAST_FLOWS_US
from tests.benchmarks.seeds import Sample, difference
from tests.netsim.closed_loop import controlled, transport_of
from tests.netsim.scenes import flow, scene

BAR = 0.03
RATE = 100 * 10**9
PACKET, ANSWER = 4150, 64
LINK_PS = 10**6


class Network(NamedTuple):
    """A fabric.

    Args:
        build: Makes it.
        links: Links of its longest paths.
        known_us: From the arrival of a flow's last byte until its sender knows.
    """

    build: Callable[[], Topology]
    links: int
    known_us: float

    @property
    def round_trip_ps(self) -> int:
        """The longest round trip of a full packet and its acknowledgement without queues."""
        return self.links * (2 * LINK_PS + service_ps(PACKET, RATE) + service_ps(ANSWER, RATE))

    @property
    def packets(self) -> int:
        """Full packets of one bandwidth-delay product."""
        return -(-self.round_trip_ps // service_ps(PACKET, RATE))


def _fat_tree(**shape: int) -> Network:
    document = {"kind": "fat_tree", "host_rate": "100Gbps", "link_delay": "1us", **shape}
    return Network(lambda: FatTree(FatTreeConfig.model_validate(document)), 6, 6.0)


def _leaf_spine(leaves: int, spines: int, hosts_per_leaf: int) -> Network:
    shape = {"leaves": leaves, "spines": spines, "hosts_per_leaf": hosts_per_leaf}
    document = {"kind": "leaf_spine", "host_rate": "100Gbps", "link_delay": "1us", **shape}
    return Network(lambda: LeafSpine(LeafSpineConfig.model_validate(document)), 4, 4.0)


NETWORKS = {
    "fat tree 16": _fat_tree(k=4),
    "fat tree 128": _fat_tree(k=8),
    "fat tree 128, 4:1": _fat_tree(pods=8, edges_per_pod=4, aggregations_per_pod=4, cores=4, hosts_per_edge=4),
    "fat tree 1,024": _fat_tree(k=16),
    "leaf-spine 64": _leaf_spine(8, 8, 8),
    "leaf-spine 1,024": _leaf_spine(32, 32, 32),
    "leaf-spine 8,192": _leaf_spine(128, 64, 64),
}


def permutation(hosts: int, draw: Random) -> list[Task]:
    """Every host sends 2 MB to another one, and gets 2 MB."""
    order = draw.sample(range(hosts), hosts)
    return [flow(src, dst, 2_000_000) for src, dst in zip(order, order[1:] + order[:1], strict=True)]


def incast(size_bytes: int) -> Callable[[int, Random], list[Task]]:
    """All other hosts send to one."""

    def tasks(hosts: int, draw: Random) -> list[Task]:
        receiver = draw.randrange(hosts)
        return [flow(src, receiver, size_bytes) for src in range(hosts) if src != receiver]

    return tasks


def rings(hosts: int, draw: Random) -> list[Task]:
    """Groups of 16 hosts drawn at random; 31 messages of 1 MB each way round, as uet-htsim's generator has it.

    A host sends the next message when the sender of the last one knows that it has arrived.
    """
    known_ps = 4 * (LINK_PS + service_ps(ANSWER, RATE))
    order, size, steps = draw.sample(range(hosts), hosts), 16, 31
    tasks: list[Task] = []
    for group in range(0, hosts, size):
        members = order[group : group + size]
        for first in range(size):
            for step in range(steps):
                src, dst = members[(first + step) % size], members[(first + step + 1) % size]
                after = (len(tasks) - 1,) if step else ()
                tasks.append(Task(src, dst, 1_000_000, known_ps if step else 0, after))
    return tasks


class Case(NamedTuple):
    """A pattern on a fabric.

    Args:
        name: The pattern.
        network: Name of the fabric.
        tasks: Messages for a number of hosts.
        control: Kind of congestion control.
        transport: reps or spray.
        large: Whether it runs only if asked for.
    """

    name: str
    network: str
    tasks: Callable[[int, Random], list[Task]]
    control: str
    transport: str
    large: bool = False

    @property
    def htsim_us(self) -> tuple[float, ...]:
        """Last flows of htsim, seeds 1, 2, ..."""
        return LAST_FLOWS_US[f"{self.name}, {self.network}, {self.control}, {self.transport}"]


CASES = [
    Case("permutation", "fat tree 128", permutation, "nscc", "reps"),
    Case("permutation", "fat tree 128", permutation, "nscc", "spray"),
    Case("permutation", "fat tree 128", permutation, "receiver_credit", "reps"),
    Case("permutation", "fat tree 128, 4:1", permutation, "nscc", "reps"),
    Case("permutation", "fat tree 128, 4:1", permutation, "nscc", "spray"),
    Case("permutation", "fat tree 1,024", permutation, "nscc", "reps"),
    Case("permutation", "fat tree 1,024", permutation, "nscc", "spray"),
    Case("permutation", "leaf-spine 1,024", permutation, "nscc", "reps"),
    Case("permutation", "leaf-spine 1,024", permutation, "nscc", "spray"),
    Case("permutation", "leaf-spine 8,192", permutation, "nscc", "reps", large=True),
    Case("incast 15:1, 2 MB", "fat tree 16", incast(2_000_000), "nscc", "reps"),
    Case("incast 15:1, 2 MB", "fat tree 16", incast(2_000_000), "receiver_credit", "reps"),
    Case("incast 127:1, 2 MB", "fat tree 128", incast(2_000_000), "nscc", "reps"),
    Case("incast 127:1, 2 MB", "fat tree 128", incast(2_000_000), "receiver_credit", "reps"),
    Case("incast 1,023:1, 100 kB", "fat tree 1,024", incast(100_000), "nscc", "reps"),
    Case("incast 1,023:1, 100 kB", "fat tree 1,024", incast(100_000), "receiver_credit", "reps"),
    Case("rings of 16, 1 MB", "leaf-spine 64", rings, "nscc", "reps"),
]


def scene_of(case: Case, topology: Topology, seed: int) -> Scene:
    """The scene of a case, with uet-htsim's automatic settings."""
    network = NETWORKS[case.network]
    queue = network.packets * PACKET
    control: dict[str, Any] = {"kind": case.control}
    if case.control == "nscc":
        low, high = -(-network.packets // 5), -(-4 * network.packets // 5)
        control |= {"mark_from": f"{low * PACKET}B", "mark_all": f"{high * PACKET}B"}
        control |= {"round_trip": f"{network.round_trip_ps}ps", "marks": "departure"}
    timeout_us = 15 + 6 * queue * 8 * 10**6 // RATE
    plain = scene(topology, case.tasks(topology.hosts, Random(seed)), payload=f"{PACKET - 64}B", header="64B")
    return controlled(
        plain,
        queue=f"{queue}B",
        congestion=control,
        recovery={"kind": "selective", "timeout": f"{timeout_us}us"},
        flow_control={"kind": "trim", "header": "64B"},
        acknowledgement={"size": f"{ANSWER}B", "lane": "priority"},
    )


def spraying(case: Case) -> dict[str, Any]:
    """uet-htsim's REPS, or spraying over its header values."""
    if case.transport == "spray":
        return {"kind": "spray_random", "entropies": 64, "order": "rounds"}
    low = -(-NETWORKS[case.network].packets // 5) * PACKET
    options = {"every": 4, "explore": 16, "freeze": "10ms", "entropies": 64, "forgive_last_link": True}
    return {"kind": "reps", "mark_above": f"{low}B"} | options


def last_flows_us(case: Case, seeds: Sequence[int]) -> list[float]:
    """When the sender of the last flow knows, for each seed."""
    network, found = NETWORKS[case.network], []
    topology = network.build()
    for seed in seeds:
        what = scene_of(case, topology, seed)
        outcome = EventEngine(what, transport_of(spraying(case), what, seed), seed).run()
        found.append(outcome.completion_ps / 10**6 + network.known_us)
    return found


def main() -> int:
    """Measures, prints, and returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help="at most so many runs of each case; default: as many as of htsim")
    parser.add_argument("--large", action="store_true", help="8,192 hosts as well: some minutes and GB")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose row contains this text")
    given = parser.parse_args()
    if given.seeds is not None and given.seeds < 1:
        parser.error(f"argument --seeds: is {given.seeds}; write at least 1")
    names = f"{'case':24}{'fabric':20}{'control':17}{'':7}"
    print(f"{names}{'seeds':>5}{'ours, us':>17}{'htsim, us':>17}{'difference':>18}   CPU, s")
    missed = shown = 0
    for case in CASES:
        row = f"{case.name:24}{case.network:20}{case.control:17}{case.transport:7}"
        if given.only not in row or (case.large and not given.large):
            continue
        start = time.process_time()
        seeds = min(given.seeds or len(case.htsim_us), len(case.htsim_us))
        ours, theirs = Sample(last_flows_us(case, range(1, seeds + 1))), Sample(case.htsim_us[:seeds])
        share, error = difference(ours, theirs)
        figures = f"{seeds:5}{ours!s:>17}{theirs!s:>17}{f'{share:+.1%} ± {error:.1%}':>18}"
        ends = " missed" if abs(share) > BAR else ""
        print(f"{row}{figures}{time.process_time() - start:9.1f}{ends}", flush=True)
        missed += abs(share) > BAR
        shown += 1
    print(f"{shown - missed} of {shown} within {100 * BAR:.0f} %")
    return 1 if missed or not shown else 0


if __name__ == "__main__":
    sys.exit(main())
