"""Paths packet by packet, chosen by the host without any news: sprays, rotation by destination, flowlets."""

import random
from collections import Counter
from itertools import pairwise

from netsim.transport.flowlet import Flowlet
from netsim.transport.protocol import Flow, Transport
from netsim.transport.spray import DestinationRotation, SprayRandom, SprayRoundRobin
from tests.each import each
from tests.netsim.closed_loop import run
from tests.netsim.releases import Releases
from tests.netsim.scenes import fabric, flow, scene

RELEASE = Releases(fabric(4, 6, 4))
EVERY = (0, 1, 2, 3, 4, 5)


def flow_of(transport: Transport, task: int, src: int, dst: int) -> Flow:
    """A flow whose packets ask for their paths."""
    item = transport.admit([RELEASE(task, src, dst, 4000)], 0)[0]
    assert item.path is None
    return item


def interleaved(transport: Transport, seed: int, sources: int = 2) -> list[tuple[int, int, int]]:
    """Source, leaf and path of the packets of many flows that take turns at random."""
    draw = random.Random(seed)
    ends = [(src, dst) for src in range(sources) for dst in range(4, 16)]
    flows = [flow_of(transport, task, src, dst) for task, (src, dst) in enumerate(ends)]
    serials = Counter[int]()
    sent = []
    for _ in range(2000):
        item = draw.choice(flows)
        path = transport.choose_path(item, serials[item.id], EVERY, len(sent))
        serials[item.id] += 1
        sent.append((item.message.src, item.message.dst_leaf, path))
    return sent


def uses_each_path_once(paths: list[int]) -> bool:
    """In any window of as many packets as there are paths."""
    windows = (paths[begin : begin + len(EVERY)] for begin in range(len(paths) - len(EVERY) + 1))
    return all(sorted(window) == list(EVERY) for window in windows)


@each("seed", range(5))
def test_rotation_by_destination_uses_each_path_once_in_any_window_to_a_leaf(seed):
    sent = interleaved(DestinationRotation(seed, 6), seed)
    for src in range(2):
        for leaf in (1, 2, 3):
            assert uses_each_path_once([path for host, to, path in sent if (host, to) == (src, leaf)])


@each("seed", range(5))
def test_round_robin_uses_each_path_once_in_any_window_of_a_host_and_not_to_a_leaf(seed):
    sent = interleaved(SprayRoundRobin(seed, 6), seed)
    for src in range(2):
        assert uses_each_path_once([path for host, _, path in sent if host == src])
        assert not uses_each_path_once([path for host, leaf, path in sent if (host, leaf) == (src, 1)])


@each("kind", [SprayRoundRobin, DestinationRotation])
def test_counters_of_hosts_begin_anywhere(kind):
    """Of 120 hosts and seeds each of six paths is the first of about twenty."""
    first = Counter[int]()
    for seed in range(30):
        transport = kind(seed, 6)
        first.update(transport.choose_path(flow_of(transport, 0, src, 8), 0, EVERY, 0) for src in range(4))
    assert all(6 <= first[path] <= 36 for path in EVERY)


@each("kind", ["spray_round_robin", "drb"])
def test_counted_packets_of_one_flow_load_all_paths_alike(kind):
    """Simulated: 61 packets over six spines are ten or eleven on each."""
    links = run(scene(fabric(2, 6, 1), [flow(0, 1, 61 * 4000)]), kind, seed=3).links
    up = sorted(record.bytes // 4000 for record in links[4:10])
    assert up == [10, 10, 10, 10, 10, 11]


def test_random_spray_draws_by_packet_and_not_by_order():
    transport = SprayRandom(0, 6)
    item = flow_of(transport, 0, 0, 4)
    forward = [transport.choose_path(item, serial, EVERY, 0) for serial in range(900)]
    backward = [transport.choose_path(item, serial, EVERY, 0) for serial in reversed(range(900))]
    assert forward == backward[::-1]
    assert all(105 <= count <= 195 for count in Counter(forward).values())
    pairs = Counter(pairwise(forward))
    assert len(pairs) == 36
    assert all(5 <= count <= 50 for count in pairs.values())


@each("kind", [SprayRandom, SprayRoundRobin, DestinationRotation])
def test_sprays_use_all_of_the_paths_that_are_left_and_no_other(kind):
    transport = kind(1, 6)
    item = flow_of(transport, 0, 0, 4)
    chosen = Counter(transport.choose_path(item, serial, (1, 3, 4), serial) for serial in range(300))
    assert set(chosen) == {1, 3, 4}
    assert all(60 <= count <= 140 for count in chosen.values())


@each("seed", range(10))
def test_flowlets_change_paths_after_gaps_only_and_then_at_random(seed):
    """Gaps of exactly the shortest length do not count; other flows do not matter."""
    draw = random.Random(seed)
    transport = Flowlet(seed, 6, gap=100)
    flows = [flow_of(transport, task, 0, 4 + task) for task in range(3)]
    last: dict[Flow, tuple[int, int]] = dict.fromkeys(flows, (-(10**9), -1))
    now_ps = 0
    changed = Counter[bool]()
    for serial in range(3000):
        now_ps += draw.choice([0, 1, 20, 33, 100, 400])
        item = draw.choice(flows)
        path = transport.choose_path(item, serial, EVERY, now_ps)
        before_ps, before = last[item]
        if now_ps - before_ps <= 100:
            assert path == before
        elif before >= 0:
            changed[path != before] += 1
        last[item] = now_ps, path
    assert 0.75 < changed[True] / changed.total() < 0.91


def test_a_flowlet_leaves_a_path_that_the_routing_gives_up():
    transport = Flowlet(0, 6, gap=100)
    item = flow_of(transport, 0, 0, 4)
    path = transport.choose_path(item, 0, EVERY, 0)
    rest = tuple(other for other in EVERY if other != path)
    moved = transport.choose_path(item, 1, rest, 1)
    assert moved in rest
    assert transport.choose_path(item, 2, EVERY, 2) == moved


def test_a_flow_that_never_pauses_is_one_flowlet():
    """At the rate of its host's link; where it gets every third turn only, and the gap is short, it is many."""
    alone = run(scene(fabric(2, 6, 1), [flow(0, 1, 400_000)]), {"kind": "flowlet", "gap": "320ns"})
    assert sorted(record.bytes for record in alone.links[4:10]) == [0] * 5 + [400_000]
    three = scene(fabric(2, 6, 3), [flow(0, dst, 400_000) for dst in (3, 4, 5)])
    assert min(record.bytes for record in run(three, {"kind": "flowlet", "gap": "959ns"}).links[12:18]) > 0
    together = run(three, {"kind": "flowlet", "gap": "960ns"})
    assert all(record.bytes % 400_000 == 0 for record in together.links[12:18])
