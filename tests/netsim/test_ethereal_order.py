"""Ethereal's orders of injection, delayed starts, and paths that are avoided after failures."""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import groupby, permutations, product

from netsim.engine.protocol import Outcome
from netsim.engine.reference.engine import ReferenceEngine
from netsim.topology.fat_tree import FatTree, FatTreeConfig
from netsim.topology.protocol import Topology
from netsim.transport.ethereal import Ethereal, Pieces
from netsim.transport.protocol import Flow, Release
from netsim.workload.tasks import Task
from tests.each import each
from tests.netsim.releases import Releases, loads
from tests.netsim.scenes import all_to_all, fabric, flow, scene

PAYLOAD_BYTES = 4000


def fat_tree(**shape: int) -> FatTree:
    return FatTree(FatTreeConfig.model_validate({"kind": "fat_tree", **shape}))


FABRICS = {
    "as many spines as hosts": (fabric(4, 4, 4), 3),
    "more spines": (fabric(3, 5, 4), 20),
    "parallel links": (fabric(3, 3, 5, parallel=2), 6),
    "one host a leaf": (fabric(5, 3, 1), 3),
    "two hosts, four spines": (fabric(2, 4, 2), 8),
    "fat tree": (fat_tree(k=4), 4),
    "fat tree with a host an edge": (fat_tree(k=4, hosts_per_edge=1), 4),
}
"""Fabrics that are not oversubscribed, and packets of a message, such that every piece is whole packets."""


def simulated(
    topology: Topology, tasks: Sequence[Task], transport: Ethereal, scheduling: str = "sequential"
) -> Outcome:
    """A run of the reference engine, one rank a host."""
    what = scene(topology, tasks, scheduling=scheduling, destinations="rotated")
    return ReferenceEngine(what, transport, 0).run()


def packets(ring: Sequence[Flow]) -> list[Flow]:
    """The flow of each packet of a ring that is served one flow after the other."""
    return [flow for flow in ring for _ in range(-(-flow.bytes // PAYLOAD_BYTES))]


def collisions(topology: Topology, rings: Sequence[Sequence[Flow]]) -> tuple[int, int]:
    """Moments, counted in packets, at which two hosts send to one host, or over one link between switches."""
    receivers = links = 0
    for moment in zip(*map(packets, rings), strict=True):
        between = [link for flow in moment for link in flow.message.paths[flow.path or 0][1:-1]]
        receivers += len({flow.message.dst for flow in moment}) < topology.hosts
        links += len(set(between)) < len(between)
    return receivers, links


@each("pieces, case", product(["equal", "minimal"], FABRICS))
def test_staggered_hosts_never_meet_in_an_all_to_all(case: str, pieces: Pieces):
    topology, count = FABRICS[case]
    transport = Ethereal(0, 64, pieces, order="staggered")
    rings = [transport.admit(released, 0) for released in Releases(topology).all_to_all(count * PAYLOAD_BYTES)]
    assert collisions(topology, rings) == (0, 0)


def test_hosts_that_are_not_staggered_meet():
    topology, count = FABRICS["as many spines as hosts"]
    released = Releases(topology).all_to_all(count * PAYLOAD_BYTES)
    transport = Ethereal(0, 4, order="published")
    receivers, links = collisions(topology, [transport.admit(messages, 0) for messages in released])
    assert receivers > 0
    assert links > 0


def test_oversubscribed_hosts_meet_on_links_and_not_at_receivers():
    topology = fabric(3, 2, 4)
    transport = Ethereal(0, 2, order="staggered")
    rings = [transport.admit(released, 0) for released in Releases(topology).all_to_all(2 * PAYLOAD_BYTES)]
    receivers, links = collisions(topology, rings)
    assert receivers == 0
    assert links > 0


@each("pieces, case", product(["equal", "minimal"], FABRICS))
def test_a_staggered_all_to_all_ends_when_the_last_packet_of_busy_hosts_can_arrive(case: str, pieces: Pieces):
    """All packets but the last of n (H - 1) leave a host back to back; it then takes every link in turn, unhindered."""
    topology, count = FABRICS[case]
    transport = Ethereal(0, 64, pieces, order="staggered")
    outcome = simulated(topology, all_to_all(topology.hosts, count * PAYLOAD_BYTES), transport)
    hops = 2 * len(topology.tiers)
    assert outcome.completion_ps == ((topology.hosts - 1) * count + hops - 1) * 320_000 + hops * 500_000


def messages_to_leaves(leaves: int, spines: int, per_leaf: int) -> list[Release]:
    """From host 0 to each host of the other leaves."""
    release = Releases(fabric(leaves, spines, per_leaf))
    return [release(dst, 0, dst, 60 * PAYLOAD_BYTES) for dst in range(per_leaf, leaves * per_leaf)]


@each("pieces, seed", product(["equal", "minimal"], range(20)))
def test_published_order_goes_leaf_by_leaf_flow_by_flow_piece_by_piece(seed: int, pieces: Pieces):
    flows = Ethereal(seed, 4, pieces, order="published").admit(messages_to_leaves(4, 4, 3), 0)
    leaves = [leaf for leaf, _ in groupby(flow.message.dst_leaf for flow in flows)]
    messages = [task for task, _ in groupby(flow.message.task for flow in flows)]
    assert sorted(leaves) == [1, 2, 3]
    assert sorted(messages) == list(range(3, 12))
    for _, pieces_of_one in groupby(flows, key=lambda flow: flow.message.task):
        numbers = [flow.id % 4 for flow in pieces_of_one]
        assert numbers == list(range(len(numbers)))


def test_published_order_shuffles_leaves_and_flows_alike():
    """Each of six orders of leaves, and of flows within a leaf, in about a sixth of all runs."""
    leaves, flows = Counter(), Counter()
    for seed in range(600):
        ring = Ethereal(seed, 3, order="published").admit(messages_to_leaves(4, 3, 3), 0)
        leaves[tuple(leaf for leaf, _ in groupby(flow.message.dst_leaf for flow in ring))] += 1
        flows[tuple(flow.message.dst for flow in ring if flow.message.dst_leaf == 1)] += 1
    for counts, entries in ((leaves, (1, 2, 3)), (flows, (3, 4, 5))):
        assert set(counts) == set(permutations(entries))
        assert all(65 <= count <= 135 for count in counts.values())


@each("order", ["published", "staggered"])
def test_a_host_sends_in_the_order_of_the_transport_whatever_the_nic_says(order):
    """One sender, one flow after the other, paths of equal length: flows end in the order in which they left."""
    topology = fabric(4, 3, 2)
    tasks = [flow(0, dst, 6 * PAYLOAD_BYTES) for dst in range(2, 8)]
    outcome = simulated(topology, tasks, Ethereal(5, 3, order=order))
    release = Releases(topology)
    ring = Ethereal(5, 3, order=order).admit([release(n, 0, n + 2, task.bytes) for n, task in enumerate(tasks)], 0)
    ends = {record.id: record.end_ps for record in outcome.flows}
    assert [item.id for item in ring] == sorted(ends, key=ends.__getitem__)


def test_without_shuffles_flows_and_paths_go_by_number():
    release = Releases(fabric(2, 4, 6))
    messages = [release(task, 0, 6 + task, 4000) for task in range(6)]
    flows = Ethereal(3, 4, randomise=False).admit(messages, 0)
    assert [(item.message.task, item.path) for item in flows[:4]] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert [(item.message.task, item.path) for item in flows[4:]] == [(4, 0), (4, 1), (5, 2), (5, 3)]


def test_shuffles_cut_every_flow_and_begin_with_every_path_as_often():
    release = Releases(fabric(2, 4, 5))
    messages = [release(task, 0, 5 + task, 4000) for task in range(5)]
    cut, first = Counter(), Counter()
    for seed in range(500):
        flows = Ethereal(seed, 4).admit(messages, 0)
        cut[max(item.message.task for item in flows if item.bytes < 4000)] += 1
        first[flows[0].path] += 1
    assert all(70 <= cut[task] <= 130 for task in range(5))
    assert all(90 <= first[path] <= 160 for path in range(4))


def test_starts_are_delayed_evenly_up_to_the_longest_delay():
    release = Releases(fabric(2, 1, 2))
    messages = [release(task, 0, 2, 100) for task in range(2000)]
    delays = Counter(item.delay_ps for item in Ethereal(1, 1, start_delay=3).admit(messages, 0))
    assert set(delays) == {0, 1, 2, 3}
    assert all(430 <= count <= 570 for count in delays.values())
    assert {item.delay_ps for item in Ethereal(1, 1).admit(messages, 0)} == {0}


@each("seed", range(5))
def test_a_flow_alone_is_late_by_its_delay(seed: int):
    topology, tasks = fabric(2, 1, 1), [flow(0, 1, 9 * PAYLOAD_BYTES)]
    delayed = Ethereal(seed, 1, start_delay=50_000)
    delay_ps = delayed.admit([Releases(topology)(0, 0, 1, tasks[0].bytes)], 0)[0].delay_ps
    late = (
        simulated(topology, tasks, delayed).completion_ps - simulated(topology, tasks, Ethereal(seed, 1)).completion_ps
    )
    assert late == delay_ps


def test_a_path_that_has_failed_is_avoided_towards_that_leaf_for_a_while():
    """Then no share falls on it, the others carry it evenly, and no other leaf or host is concerned."""
    release = Releases(fabric(3, 4, 2))
    transport = Ethereal(0, 4, avoid=1000)
    first = transport.admit([release(0, 0, 2, 12_000)], 0)
    failed = first[0]
    other = transport.on_timeout(failed, failed.path, (0, 1, 2, 3), 50)
    assert other in {0, 1, 2, 3} - {failed.path}

    def used(task: int, src: int, dst: int, now_ps: int) -> dict[int | None, int]:
        return {item.path: item.bytes for item in transport.admit([release(task, src, dst, 12_000)], now_ps)}

    rest = {0, 1, 2, 3} - {failed.path}
    assert used(1, 0, 3, 60) == dict.fromkeys(rest, 4000)
    assert used(2, 0, 2, 1049) == dict.fromkeys(rest, 4000)
    assert used(3, 0, 2, 1050) == dict.fromkeys(range(4), 3000)
    assert used(4, 0, 4, 60) == dict.fromkeys(range(4), 3000)
    assert used(5, 1, 2, 60) == dict.fromkeys(range(4), 3000)


def test_if_all_paths_have_failed_all_are_used():
    release = Releases(fabric(2, 3, 1))
    transport = Ethereal(0, 3, avoid=1000)
    item = transport.admit([release(0, 0, 1, 3000)], 0)[0]
    for path in range(3):
        assert transport.on_timeout(item, path, (0, 1, 2), 10) in range(3)
    assert {item.path for item in transport.admit([release(1, 0, 1, 3000)], 20)} == {0, 1, 2}


def test_a_flow_moves_to_paths_that_the_routing_believes_in():
    release = Releases(fabric(2, 8, 1))
    transport = Ethereal(0, 8)
    item = transport.admit([release(0, 0, 1, 800)], 0)[0]
    draw = random.Random(0)
    for now_ps in range(0, 1000, 10):
        usable = tuple(sorted(draw.sample(range(8), draw.randint(1, 8))))
        assert transport.choose_path(item, now_ps, usable, now_ps) in usable
        assert transport.on_timeout(item, draw.choice(usable), usable, now_ps) in usable


def test_traffic_without_a_choice_goes_straight_out():
    release = Releases(fabric(2, 3, 3))
    transport = Ethereal(0, 3)
    flows = transport.admit([release(task, 0, dst, 1001) for task, dst in enumerate((1, 2))], 0)
    assert [(item.message.task, item.bytes, item.path) for item in flows] == [(0, 1001, 0), (1, 1001, 0)]
    assert transport.on_timeout(flows[0], 0, (0,), 10) == 0
    assert loads(flows) == {0: 2002, 7: 1001, 8: 1001}
