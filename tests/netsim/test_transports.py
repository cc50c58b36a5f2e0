"""How transports cut and spread messages; ethereal's theorem in exact fractions."""

import random
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from math import gcd
from typing import get_args

import pytest
from pydantic import TypeAdapter

from netsim.topology.leaf_spine import LeafSpine
from netsim.topology.protocol import paths
from netsim.transport.build import PACKET_TRANSPORTS, build_transport
from netsim.transport.config import KINDS, TransportConfig
from netsim.transport.ecmp import Ecmp
from netsim.transport.ethereal import Ethereal
from netsim.transport.protocol import Flow, Release
from netsim.transport.spray import SprayRandom, SprayRoundRobin
from tests.netsim.scenes import TRANSPORTS, all_to_all, fabric, flow, scene, simulate


def release(task: int, src: int, dst: int, size_bytes: int, topology: LeafSpine) -> Release:
    """A message between hosts, one rank each."""
    ways = paths(topology, src, dst)
    return Release(task, src, dst, topology.leaf(dst), size_bytes, ways, tuple(range(len(ways))))


def loads(flows: list[Flow]) -> Counter[int]:
    """Bytes on each link of flows that carry their path."""
    load: Counter[int] = Counter()
    for item in flows:
        assert item.path is not None
        for link in item.message.paths[item.path]:
            load[link] += item.bytes
    return load


def ideal_loads(messages: list[Release]) -> dict[int, Fraction]:
    """Bytes on each link if every message spreads evenly over its paths."""
    load: dict[int, Fraction] = {}
    for message in messages:
        for path in message.paths:
            for link in path:
                load[link] = load.get(link, Fraction(0)) + Fraction(message.bytes, len(message.paths))
    return load


def ethereal_against_ideal(topology: LeafSpine, messages: list[Release], seed: int, batches: int = 1) -> Fraction:
    """Largest difference between a link's bytes under ethereal and under ideal spraying."""
    transport = Ethereal(seed, 64)
    flows: list[Flow] = []
    for batch in range(batches):
        for src in range(topology.hosts):
            flows += transport.admit([m for m in messages[batch::batches] if m.src == src], 0)
    load, ideal = loads(flows), ideal_loads(messages)
    return max(abs(load[link] - ideal[link]) for link in ideal)


@pytest.mark.parametrize("seed", range(60))
def test_ethereal_puts_on_every_link_exactly_what_ideal_spraying_puts(seed):
    """Random fabrics and random numbers of equal flows for each source and destination leaf; no tolerance."""
    draw = random.Random(seed)
    leaves, spines, per_leaf = draw.randint(2, 5), draw.randint(1, 12), draw.randint(1, 4)
    topology = fabric(leaves, spines, per_leaf)
    messages: list[Release] = []
    for src in range(topology.hosts):
        for leaf in range(leaves):
            size = spines * draw.randint(1, 500)
            for _ in range(draw.randint(0, 20)):
                dst = leaf * per_leaf + draw.randrange(per_leaf)
                if dst != src:
                    messages.append(release(len(messages), src, dst, size, topology))
    assert ethereal_against_ideal(topology, messages, seed) == 0


@pytest.mark.parametrize(("flows", "spines"), [(16, 16), (1, 16), (12, 16), (10, 16), (3, 4), (20, 8), (7, 7), (5, 1)])
def test_ethereal_cuts_only_the_rest_and_in_as_few_equal_pieces_as_possible(flows, spines):
    topology = fabric(2, spines, 1)
    cut = Ethereal(0, spines).admit([release(task, 0, 1, 1000 * spines, topology) for task in range(flows)], 0)
    rest = flows % spines
    pieces = Counter(item.message.task for item in cut)
    assert len(cut) == flows + rest * (spines // gcd(rest, spines) - 1)
    assert sorted(pieces.values()) == [1] * (flows - rest) + [spines // gcd(rest, spines)] * rest
    # k equal pieces of r flows on s paths need r k / s whole, so that fewer cannot do
    fewest = next(k for k in range(1, spines + 1) if rest * k % spines == 0)
    assert max(pieces.values()) == fewest
    assert len({item.id for item in cut}) == len(cut)


@pytest.mark.parametrize("size", [1, 5, 1001, 63_999])
@pytest.mark.parametrize("spines", [3, 8])
def test_bytes_that_do_not_divide_cost_less_than_a_byte_a_piece(size, spines):
    topology = fabric(2, spines, 1)
    messages = [release(task, 0, 1, size, topology) for task in range(5)]
    cut = Ethereal(1, spines).admit(messages, 0)
    assert all(item.bytes > 0 for item in cut)
    assert sum(item.bytes for item in cut) == 5 * size
    assert ethereal_against_ideal(topology, messages, 1) < len(cut)


def test_without_equal_sizes_there_is_no_equality():
    """Whole flows of unequal size would be uneven; in groups of one each is cut and the balance returns."""
    topology = fabric(2, 2, 2)
    unequal = [release(0, 0, 2, 1000, topology), release(1, 0, 3, 3000, topology)]
    whole = [Flow(m.task, m, m.bytes, turn) for turn, m in enumerate(unequal)]
    ideal = ideal_loads(unequal)
    assert max(abs(loads(whole)[link] - ideal[link]) for link in ideal) == 1000
    assert ethereal_against_ideal(topology, unequal, 0) == 0


def test_batches_seen_apart_stay_balanced_and_cost_more_pieces():
    topology = fabric(2, 4, 4)
    messages = [release(task, 0, 4 + task, 4000, topology) for task in range(4)]
    assert ethereal_against_ideal(topology, messages, 0, batches=4) == 0
    assert len(Ethereal(0, 4).admit(messages, 0)) == 4
    assert sum(len(Ethereal(0, 4).admit([message], 0)) for message in messages) == 16


def test_unequal_spines_break_the_equality():
    """The rule counts paths, not their rates: a spine of half the rate gets the same bytes and twice the time."""
    topology = fabric(2, 2, 1)
    messages = [release(0, 0, 1, 8000, topology)]
    load = loads(Ethereal(0, 2).admit(messages, 0))
    slow = [load[link] / rate for link, rate in zip((4, 5), (1, 2), strict=True)]
    assert slow[0] == 2 * slow[1]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_transport_carries_every_byte_of_every_message_once(transport):
    draw = random.Random(5)
    topology = fabric(3, 4, 3)
    messages = []
    for task in range(200):
        src, dst = draw.sample(range(9), 2)
        messages.append(release(task, src, dst, draw.randint(1, 10_000), topology))
    built = TRANSPORTS[transport](3, 4)
    carried: Counter[int] = Counter()
    for src in range(9):
        for item in built.admit([message for message in messages if message.src == src], 0):
            carried[item.message.task] += item.bytes
            path = built.choose_path(item, 0, item.message.usable, 0) if item.path is None else item.path
            assert 0 <= path < len(item.message.paths)
    assert carried == {message.task: message.bytes for message in messages}


def test_the_list_of_transports_is_the_grammars():
    kinds = {kind for section in KINDS for kind in get_args(section.model_fields["kind"].annotation)}
    assert set(PACKET_TRANSPORTS) == kinds - {"ideal", "own"}
    for kind in PACKET_TRANSPORTS:
        config = TypeAdapter(TransportConfig).validate_python({"kind": kind})
        assert type(build_transport(config, 0, 4)) is PACKET_TRANSPORTS[kind]


def test_ecmp_keeps_the_path_of_a_pair_for_all_its_messages():
    topology = fabric(2, 8, 1)
    flows = Ecmp(0, 8).admit([release(task, 0, 1, 100, topology) for task in range(50)], 0)
    assert len({item.path for item in flows}) == 1


def test_ecmp_puts_two_flows_on_one_of_two_spines_half_of_the_time():
    """Completion then doubles, but for the latency."""
    what = scene(fabric(2, 2, 2), [flow(0, 2, 400_000), flow(1, 3, 400_000)])
    times = [simulate(what, "ecmp", seed).completion_ps for seed in range(60)]
    apart, together = min(times), max(times)
    assert set(times) == {apart, together}
    assert together - apart == 100 * 320_000
    assert 15 <= times.count(together) <= 45


def test_round_robin_spray_of_one_flow_uses_all_paths_alike():
    topology = fabric(2, 8, 1)
    transport = SprayRoundRobin(0, 8)
    item = transport.admit([release(0, 0, 1, 4000, topology)], 0)[0]
    chosen = [transport.choose_path(item, sequence, item.message.usable, 0) for sequence in range(80)]
    assert Counter(chosen) == dict.fromkeys(range(8), 10)
    assert all((second - first) % 8 == 1 for first, second in pairwise(chosen))


def test_random_spray_draws_by_packet_and_not_by_order():
    topology = fabric(2, 8, 1)
    transport = SprayRandom(0, 8)
    item = transport.admit([release(0, 0, 1, 4000, topology)], 0)[0]
    forward = [transport.choose_path(item, sequence, item.message.usable, 0) for sequence in range(800)]
    backward = [transport.choose_path(item, sequence, item.message.usable, 0) for sequence in reversed(range(800))]
    assert forward == backward[::-1]
    assert all(60 < count < 140 for count in Counter(forward).values())


@pytest.mark.parametrize("seed", range(3))
def test_the_fabric_carries_what_ideal_spraying_puts_on_it_in_a_simulated_all_to_all(seed):
    what = scene(fabric(4, 4, 4), all_to_all(16, 8000))
    links = simulate(what, "ethereal", seed).links[32:-16]
    assert {record.bytes for record in links} == {4 * 12 * 8000 // 4}
