"""REPS against a plain account of what has been acknowledged and what has been used of it."""

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import product

import pytest

from netsim.engine.reference.engine import ReferenceEngine
from netsim.transport.config import SprayConfig
from netsim.transport.protocol import Flow, Transport
from netsim.transport.reps import Reps
from netsim.transport.spray import SprayRandom
from tests.each import each
from tests.netsim.closed_loop import controlled, run
from tests.netsim.releases import Releases
from tests.netsim.scenes import fabric, flow, scene

RELEASE = Releases(fabric(2, 6, 4))
EVERY = (0, 1, 2, 3, 4, 5)
MANY = tuple(range(97))
FREEZE_PS = 1000


def reps(seed: int = 0, cache: int = 8) -> tuple[Reps, list[Flow]]:
    """The transport, and two of its flows."""
    transport = Reps(seed, 6, cache, FREEZE_PS, mark_above=100_000)
    return transport, [transport.admit([RELEASE(task, task, 4 + task, 4000)], 0)[0] for task in range(2)]


class Account:
    """What a flow has been told.

    Args:
        cache: Places of its ring.
    """

    def __init__(self, cache: int) -> None:
        self.cache = cache
        self.unmarked: list[int] = []
        self.used = 0
        self.ring: list[int] = []
        self.turn = 0
        self.frozen_until_ps = 0

    def acknowledge(self, path: int) -> None:
        """A new path is the last whose turn comes; in a full ring it has the place of the next."""
        self.unmarked.append(path)
        if len(self.ring) < self.cache:
            self.ring.insert(self.turn, path)
        else:
            self.ring[self.turn] = path
        self.turn = (self.turn + 1) % len(self.ring)

    def unused(self) -> int | None:
        """The oldest acknowledged path that is neither used nor older than the ring is long."""
        self.used = max(self.used, len(self.unmarked) - self.cache)
        self.used += 1
        return self.unmarked[self.used - 1] if self.used <= len(self.unmarked) else None


@each("cache, seed", product([1, 3, 8], range(8)))
def test_paths_are_used_again_oldest_first_and_once_each(seed: int, cache: int):
    """Random packets, acknowledgements, marks and timeouts of two flows, which must not see each other's."""
    draw = random.Random(seed)
    transport, flows = reps(seed, cache)
    accounts = {item: Account(cache) for item in flows}
    kinds, now_ps = Counter[str](), 0
    for serial in range(4000):
        now_ps += draw.randint(0, 40)
        item = draw.choice(flows)
        account = accounts[item]
        what = draw.choice(["send", "send", "acknowledge", "timeout" if not serial % 17 else "send"])
        if what == "acknowledge":
            path, marked = draw.choice(MANY), draw.random() < 0.4
            transport.on_ack(item, path, marked)
            if not marked:
                account.acknowledge(path)
        elif what == "timeout":
            assert transport.on_timeout(item, None, MANY, now_ps) is None
            account.frozen_until_ps = now_ps + FREEZE_PS
        else:
            path, expected = transport.choose_path(item, serial, MANY, now_ps), account.unused()
            kind = "cached" if expected is not None else "explored"
            if expected is None:
                account.used -= 1
                if now_ps < account.frozen_until_ps and account.ring:
                    expected, kind = account.ring[account.turn], "frozen"
                    account.turn = (account.turn + 1) % len(account.ring)
            kinds[kind] += 1
            assert expected in (path, None)
    assert min(kinds[kind] for kind in ("cached", "frozen", "explored")) > 50


def test_exploration_is_uniform():
    transport, (item, _) = reps()
    chosen = Counter(transport.choose_path(item, serial, EVERY, 0) for serial in range(900))
    assert all(105 <= chosen[path] <= 195 for path in EVERY)


def test_a_ring_holds_eight_entries_and_goes_round_while_frozen():
    transport, (item, _) = reps()
    for path in (5, 5, *[0, 1, 2, 3, 0, 1, 2, 4]):
        transport.on_ack(item, path, marked=False)
    assert [transport.choose_path(item, serial, EVERY, 0) for serial in range(8)] == [0, 1, 2, 3, 0, 1, 2, 4]
    transport.on_timeout(item, None, EVERY, 0)
    frozen = [transport.choose_path(item, serial, EVERY, FREEZE_PS - 1) for serial in range(16)]
    assert frozen == [0, 1, 2, 3, 0, 1, 2, 4] * 2
    explored = {transport.choose_path(item, serial, EVERY, FREEZE_PS) for serial in range(100)}
    assert explored == set(EVERY)


def test_entries_that_the_routing_has_given_up_are_passed_over():
    transport, (item, _) = reps()
    for path in (2, 3, 2, 4):
        transport.on_ack(item, path, marked=False)
    usable = (0, 1, 4, 5)
    assert transport.choose_path(item, 0, usable, 0) == 4
    assert {transport.choose_path(item, serial, usable, 0) for serial in range(100)} == set(usable)


def test_a_frozen_flow_goes_through_its_ring_before_it_explores():
    """The entries that the routing believes in take turns; without any the flow explores, and its ring is as before."""
    transport, (item, _) = reps()
    ring = [2, 3, 4, 2, 5]
    for path in ring:
        transport.on_ack(item, path, marked=False)
    assert [transport.choose_path(item, serial, EVERY, 0) for serial in range(5)] == ring
    transport.on_timeout(item, None, EVERY, 0)
    assert [transport.choose_path(item, serial, (0, 1, 4, 5), 1) for serial in range(6)] == [4, 5] * 3
    assert {transport.choose_path(item, serial, (0, 1), 1) for serial in range(50)} == {0, 1}
    assert [transport.choose_path(item, serial, EVERY, 1) for serial in range(10)] == ring * 2


def test_a_flow_alone_shuns_the_path_that_is_marked():
    """One spine is a hundred times slower: random spray sends a quarter of all packets there, REPS few."""
    topology = fabric(2, 4, 1, fabric_rate=["1Gbps", "100Gbps", "100Gbps", "100Gbps"])
    what = controlled(scene(topology, [flow(0, 1, 4_000_000)]), congestion={"kind": "window", "window": 50})
    slow, *others = (int(record.bytes) // 4000 for record in run(what, {"kind": "reps", "mark_above": "1B"}).links[4:8])
    sprayed = int(run(what, "spray_random").links[4].bytes) // 4000
    assert 200 < sprayed < 300
    assert 3 * slow < sprayed < min(others)


def test_after_a_freeze_the_ring_is_empty_and_packets_explore():
    """With the only known path at 5 of 97, 16 packets after the freeze go anywhere, then the newest acknowledgement."""
    transport = Reps(0, 97, 8, FREEZE_PS, 100_000, explore=16)
    one = transport.admit([RELEASE(0, 0, 4, 4000)], 0)[0]
    transport.on_ack(one, 5, marked=False)
    transport.on_timeout(one, None, MANY, 0)
    assert {transport.choose_path(one, serial, MANY, FREEZE_PS - 1) for serial in range(8)} == {5}
    transport.on_timeout(one, None, MANY, FREEZE_PS - 1)
    explored = [transport.choose_path(one, serial, MANY, FREEZE_PS) for serial in range(8, 10)]
    transport.on_ack(one, 7, marked=False)
    explored += [transport.choose_path(one, serial, MANY, FREEZE_PS) for serial in range(10, 24)]
    assert len(set(explored)) > 8, "a second timeout within the freeze does not make it longer"
    assert transport.choose_path(one, 24, MANY, FREEZE_PS) == 7


def test_one_in_so_many_acknowledgements_adds_its_path():
    transport = Reps(0, 97, 8, FREEZE_PS, 100_000, every=4)
    one = transport.admit([RELEASE(0, 0, 4, 4000)], 0)[0]
    for path in range(12):
        transport.on_ack(one, path, marked=False)
        transport.on_ack(one, 90, marked=True)
    assert [transport.choose_path(one, serial, MANY, 0) for serial in range(3)] == [3, 7, 11]


@each("kind", [SprayRandom, partial(Reps, cache=8, freeze=FREEZE_PS, mark_above=100_000)])
def test_header_values_lead_to_paths_that_hashes_decide(kind: Callable[..., Transport]):
    """Of 64 paths 64 values reach 64 (1 - (1 - 1/64)^64) = 40.6 on average; the mean of 40 flows is within 3."""
    paths, reached = tuple(range(64)), []
    transport = kind(0, 64, entropies=64)
    for task in range(40):
        one = transport.admit([RELEASE(task, 0, 4, 4000)], 0)[0]
        reached.append(len({transport.choose_path(one, serial, paths, 0) for serial in range(600)}))
    assert abs(sum(reached) / len(reached) - 40.6) < 3


def test_rounds_are_for_header_values():
    with pytest.raises(ValueError, match="order: rounds is for header values; write entropies"):
        SprayConfig(kind="spray_random", order="rounds")


def test_header_values_in_rounds_are_used_alike():
    """Each round takes every value once, so that every round of a flow loads the paths alike; the order varies."""
    transport, paths = SprayRandom(0, 64, entropies=16, order="rounds"), tuple(range(64))
    one = transport.admit([RELEASE(0, 0, 4, 4000)], 0)[0]
    rounds = [[transport.choose_path(one, serial, paths, 0) for serial in range(n, n + 16)] for n in range(0, 160, 16)]
    assert len({tuple(sorted(taken)) for taken in rounds}) == 1
    assert len({tuple(taken) for taken in rounds}) > 5


@each("forgive", [False, True])
def test_a_packet_trimmed_before_its_receiver_says_nothing_against_its_path(forgive: bool):
    """In an incast behind an ample fabric everything is trimmed there, and every path is as good as another."""
    told: list[bool] = []

    class Watched(Reps):
        def on_ack(self, flow: Flow, path: int, marked: bool) -> None:
            told.append(marked)
            super().on_ack(flow, path, marked)

    what = scene(fabric(4, 8, 2), [flow(src, 0, 40_000) for src in range(2, 8)])
    what = controlled(what, queue="20KB", recovery={"kind": "selective"}, flow_control={"kind": "trim"})
    outcome = ReferenceEngine(what, Watched(0, 8, 8, 10**9, 10**6, forgive_last_link=forgive), 0).run()
    assert outcome.losses.trimmed > 10
    assert told.count(True) == (0 if forgive else outcome.losses.trimmed)
