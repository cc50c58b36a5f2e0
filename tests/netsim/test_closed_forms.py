"""Whole runs against results of queueing theory and of the cost models of collectives."""

import random
from collections import Counter
from math import log2
from typing import Any

import numpy as np
import pytest

import netsim
from netsim.engine.protocol import Scene
from netsim.engine.reference.connection import Packet
from netsim.foundation.units import service_ps
from netsim.topology.failure import Rates, Routes
from netsim.topology.fat_tree import FatTree, FatTreeConfig
from netsim.workload.tasks import Task, Tasks
from tests.each import each
from tests.netsim.closed_loop import SeeingEngine, controlled, random_traffic, run, transport_of
from tests.netsim.documents import collective_of, scenario_of
from tests.netsim.scenes import fabric, flow, scene

SERVICE, DELAY = 320_000, 500_000  # 4000 B at 100 Gbps; 500 ns


class LinkWatch(SeeingEngine):
    """Notes when each packet comes to each link, when its last bit leaves, and its size; the control lane aside."""

    def __init__(self, what: Scene, transport: str = "ecmp", seed: int = 0) -> None:
        super().__init__(what, transport_of(transport, what, seed), seed)
        self.stays: dict[int, list[tuple[int, int, int]]] = {}

    def forward(self, packet: Packet, link: int, leaves_ps: int) -> None:
        if not packet.passes:
            self.stays.setdefault(link, []).append((self._calendar.now, leaves_ps, packet.wire_bytes))
        super().forward(packet, link, leaves_ps)


def waits(what: Scene, link: int) -> np.ndarray:
    """Time that each packet spends at a link besides its own service of a full packet, in picoseconds."""
    engine = LinkWatch(what)
    engine.run()
    stays = np.array(engine.stays[link])
    return stays[:, 1] - stays[:, 0] - SERVICE


def poisson(load: float, packets: int, hosts: int, seed: int) -> list[Task]:
    """Single packets from many hosts to one more, at exponential intervals that load its link so much."""
    draw, now, tasks = random.Random(seed), 0.0, []
    for _ in range(packets):
        now += draw.expovariate(load / SERVICE)
        tasks.append(flow(draw.randrange(hosts), hosts, 4000, int(now)))
    return tasks


@each("load", [0.3, 0.5, 0.8])
def test_poisson_arrivals_wait_as_long_as_pollaczek_and_khinchine_say(load):
    """M/D/1: rho / (2 (1 - rho)) services. Links of the hosts are fast, so arrivals stay Poisson."""
    topology = fabric(1, 1, 65)
    # A host's own link serves at the same rate but sees 1/64 of the load; what it adds is that M/D/1's own wait.
    mean = np.mean(
        [waits(scene(topology, poisson(load, 3000, 64, seed)), topology.down(64)).mean() for seed in range(2)]
    )
    assert mean / SERVICE == pytest.approx(load / (2 * (1 - load)), rel=0.1)


@each("spacing", [SERVICE, SERVICE + 1, 3 * SERVICE])
def test_even_arrivals_do_not_wait(spacing):
    """D/D/1 at a load of at most 1."""
    topology = fabric(1, 1, 9)
    tasks = [flow(n % 8, 8, 4000, n * spacing) for n in range(200)]
    assert (waits(scene(topology, tasks), topology.down(8)) == 0).all()


@each("sources", [2, 5, 8])
def test_even_arrivals_from_many_sources_in_step_wait_for_each_other(sources):
    """N*D/D/1, all phases equal: the k-th of each round waits k services, whatever the load."""
    topology = fabric(1, 1, 9)
    period = sources * SERVICE
    tasks = [flow(src, 8, 4000, turn * period) for turn in range(20) for src in range(sources)]
    found = waits(scene(topology, tasks), topology.down(8))
    assert sorted(Counter(found.tolist()).items()) == [(k * SERVICE, 20) for k in range(sources)]
    assert found.max() == (sources - 1) * SERVICE


@each("phase", range(4))
def test_even_arrivals_from_many_sources_out_of_step_wait_less_than_in_step(phase):
    """N*D/D/1 with any phases: never more than N - 1 services, and after the first round always the same."""
    sources, topology, draw = 8, fabric(1, 1, 9), random.Random(phase)
    period = sources * SERVICE
    phases = [draw.randrange(period) for _ in range(sources)]
    tasks = [flow(src, 8, 4000, turn * period + phases[src]) for turn in range(20) for src in range(sources)]
    found = waits(scene(topology, tasks), topology.down(8))
    assert found.max() <= (sources - 1) * SERVICE
    assert (found[-sources:] == found[-2 * sources : -sources]).all()


@each("seed", range(8))
def test_every_link_serves_in_order_without_a_pause(seed):
    """Lindley's recursion on every link, windows, marks and acknowledgements in the same queues or not."""
    draw = random.Random(seed)
    congestion = draw.choice([{"kind": "none"}, {"kind": "dctcp", "mark_above": "8KB"}, {"kind": "window"}])
    what = controlled(
        random_traffic(seed), congestion=congestion, acknowledgement={"lane": draw.choice(["control", "data"])}
    )
    engine = LinkWatch(what, "spray_random", seed)
    outcome = engine.run()
    for link, stays in engine.stays.items():
        rate, free = what.topology.links[link].rate_bps, 0
        for come, leave, wire_bytes in stays:
            free = max(come, free) + service_ps(wire_bytes, rate)
            assert leave == free
        assert outcome.links[link].busy_ps == sum(service_ps(wire_bytes, rate) for _, _, wire_bytes in stays)


def test_two_hashed_flows_over_two_spines_collide_every_second_time():
    """They take twice as long with probability 1/2: over 200 seeds within four standard deviations."""
    packets, what = 20, scene(fabric(2, 2, 2), [flow(0, 2, 80_000), flow(1, 3, 80_000)])
    alone = 4 * DELAY + (packets + 3) * SERVICE
    seen = Counter(run(what, "ecmp", seed).completion_ps for seed in range(200))
    assert set(seen) == {alone, alone + packets * SERVICE}
    assert abs(seen[alone] - 100) <= 4 * 7


def collective(op: str, algorithm: str, ranks: int, size_bytes: int, **fields: Any) -> int:
    """Completion of a collective of one rank a host below one switch, in picoseconds."""
    content = scenario_of(1, 1, ranks, collective_of(op, f"{size_bytes}B"), topology=fields, algorithms={op: algorithm})
    (result,) = netsim.simulate(content).runs
    return result.completion_ps


ALPHA = 2 * DELAY + SERVICE
"""What a message over two links takes besides the service of its own packets on one of them."""


@each("ranks", [2, 4, 8, 16])
def test_ring_all_reduce(ranks):
    """2 (p - 1) (alpha + m beta / p)."""
    assert collective("all_reduce", "ring", ranks, 8000 * ranks) == 2 * (ranks - 1) * (ALPHA + 2 * SERVICE)


@each("ranks", [2, 4, 8, 16])
def test_recursive_doubling_all_reduce(ranks):
    """log2 p (alpha + m beta)."""
    rounds = int(log2(ranks))
    assert collective("all_reduce", "recursive_doubling", ranks, 4000 * 16) == rounds * (ALPHA + 16 * SERVICE)


@each("ranks", [2, 4, 8, 16])
def test_halving_doubling_all_reduce(ranks):
    """2 log2 p alpha + 2 m beta (p - 1) / p, with whole packets in every round."""
    rounds = int(log2(ranks))
    expected = 2 * rounds * ALPHA + 2 * 4 * (ranks - 1) * SERVICE
    assert collective("all_reduce", "halving_doubling", ranks, 4 * 4000 * ranks) == expected


@each("ranks", [2, 4, 8])
def test_direct_all_reduce(ranks):
    """2 (alpha + m beta (p - 1) / p) at best; blocks from many hosts may meet in front of one."""
    blocks = 6 * (ranks - 1) * SERVICE
    completion = collective("all_reduce", "direct", ranks, 6 * 4000 * ranks)
    assert 2 * (ALPHA + blocks) <= completion <= 2 * (ALPHA + blocks + (ranks - 1) * SERVICE)


@each("ranks", [2, 4, 8])
def test_direct_all_to_all_in_rotated_order(ranks):
    """alpha + (p - 1) b beta: hosts in step serve one another in turn, so nothing ever meets."""
    tasks = [flow(src, (src + k) % ranks, 5 * 4000) for src in range(ranks) for k in range(1, ranks)]
    what = scene(fabric(1, 1, ranks), tasks, destinations="rotated", scheduling="sequential")
    assert run(what).completion_ps == ALPHA + (ranks - 1) * 5 * SERVICE


@each("ranks", [2, 3, 4, 7, 8])
def test_binary_tree_all_reduce_of_one_packet(ranks):
    """Up and down a tree of depth floor(log2 p); a parent receives from and sends to two children."""
    completion = collective("all_reduce", "tree", ranks, 4000)
    depth = int(log2(ranks))
    assert 2 * depth * (ALPHA + SERVICE) <= completion <= 2 * depth * (ALPHA + 2 * SERVICE)


def test_the_message_size_at_which_fewer_rounds_stop_to_pay():
    """Recursive doubling against the ring: alone the better for one packet a rank, the worse for many."""
    ranks = 8
    small, large = 4000 * ranks, 4000 * ranks * 64
    times = {
        size: [collective("all_reduce", name, ranks, size) for name in ("recursive_doubling", "ring")]
        for size in (small, large)
    }
    assert times[small][0] < times[small][1]
    assert times[large][0] > times[large][1]


def permutation(topology: FatTree, packets: int, seed: int) -> Scene:
    """Every host sends to one of another pod, and each receives once: full load on all tiers."""
    hosts, per_pod = topology.hosts, topology.hosts // 4
    draw = random.Random(seed)
    while True:
        receivers = draw.sample(range(hosts), hosts)
        if all(src // per_pod != dst // per_pod for src, dst in enumerate(receivers)):
            break
    rates = Rates(topology, ())
    tasks = Tasks(flow(src, dst, packets * 4000) for src, dst in enumerate(receivers))
    return Scene(topology, rates, Routes(topology, rates), range(hosts), tasks)


@each(
    "transport, exponent",
    [("spray_random", 0.5), ("drb", 0.0), ("spray_round_robin", 0.0), ("jsq", 1.0), ("ecmp", 1.0)],
)
def test_queues_of_three_tiers_at_full_load_grow_by_their_exponent(transport, exponent):
    """Longest queue against message size m: sqrt(m) for random spray, constant for rotation, m for the shortest queue.

    McClure et al.: Load Balancing for AI Training Workloads, 2025. A host's own counter is a rotation here, for each
    host has one receiver.
    """
    topology = FatTree(FatTreeConfig.model_validate({"kind": "fat_tree", "k": 4}))
    sizes, longest, draws = [32, 96, 288], [], transport in ("spray_random", "ecmp")
    for packets in sizes:
        runs = [run(permutation(topology, packets, seed), transport, seed) for seed in range(1 + draws)]
        longest.append(np.mean([outcome.queues.max_queue_ps.max() for outcome in runs]))
    slope = np.polyfit(np.log(sizes), np.log(longest), 1)[0]
    assert slope == pytest.approx(exponent, abs=0.1)
