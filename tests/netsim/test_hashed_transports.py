"""Paths by hash: equal-cost multipath and subflows."""

import struct
from binascii import crc32
from collections import Counter
from itertools import pairwise, product
from random import Random

from netsim.transport.ecmp import Ecmp, Hash, Subflows
from tests.each import each
from tests.netsim.releases import Releases
from tests.netsim.scenes import fabric

RELEASE = Releases(fabric(4, 8, 8))
PAIRS = [(src, dst) for src in range(8) for dst in range(8, 32)]


@each("hash_", ["random", "crc32"])
def test_ecmp_keeps_the_path_of_a_pair_for_all_its_messages(hash_):
    """Whatever their size, whenever they leave, alone or with others; until the routing drops the path."""
    transport = Ecmp(3, 8, hash_)
    together = transport.admit([RELEASE(task, *pair, 100) for task, pair in enumerate(PAIRS)], 0)
    for item, (src, dst) in zip(together, PAIRS, strict=True):
        alone = transport.admit([RELEASE(10_000, src, dst, 999_999)], 777)
        assert [other.path for other in alone] == [item.path]
        usable = (1, 4, 6)
        moved = {transport.choose_path(item, serial, usable, serial) for serial in range(5)}
        assert len(moved) == 1
        assert moved < set(usable)


def paths_of_pairs(seed: int, hash_: Hash) -> list[int | None]:
    return [item.path for item in Ecmp(seed, 8, hash_).admit([RELEASE(n, *pair, 1) for n, pair in enumerate(PAIRS)], 0)]


def test_ecmp_spreads_pairs_evenly_and_differently_with_every_seed():
    """192 pairs over eight paths: 24 each on average, standard deviation 4.6; as often together as draws of eight."""
    found = [paths_of_pairs(seed, "random") for seed in range(5)]
    assert all(5 <= Counter(paths)[path] <= 43 for paths in found for path in range(8))
    for one in range(5):
        for other in range(one):
            same = sum(first == second for first, second in zip(found[one], found[other], strict=True))
            assert 5 <= same <= 43


def test_ecmp_loads_links_in_permutations_as_unevenly_as_independent_draws_do():
    """Of m flows each takes one of k spines: the squares of their numbers add up to m + m (m - 1) / k on average, with
    the variance 2 m (m - 1) (k - 1) / k^2; so at the leaves of the senders, and at those of the receivers.
    """
    leaves, spines, below = 8, 8, 16
    release = Releases(fabric(leaves, spines, below))
    squares, expected, variance = [0.0, 0.0], 0.0, 0.0
    for seed in range(100):
        order = Random(seed).sample(range(leaves * below), leaves * below)
        pairs = [pair for pair in pairwise([*order, order[0]]) if pair[0] // below != pair[1] // below]
        flows = Ecmp(seed, spines).admit([release(task, *pair, 1000) for task, pair in enumerate(pairs)], 0)
        for end in (0, 1):
            taken = Counter((pair[end] // below, item.path) for pair, item in zip(pairs, flows, strict=True))
            squares[end] += sum(count**2 for count in taken.values())
        for flows_of_leaf in Counter(src // below for src, _ in pairs).values():
            expected += flows_of_leaf + flows_of_leaf * (flows_of_leaf - 1) / spines
            variance += 2 * flows_of_leaf * (flows_of_leaf - 1) * (spines - 1) / spines**2
    assert all(abs(found - expected) < 4 * variance**0.5 for found in squares)


def test_the_seed_of_crc32_renames_paths_and_keeps_collisions():
    """The code is linear: pairs that meet with one seed meet with all, where the number of paths is a power of two."""
    first, second = paths_of_pairs(0, "crc32"), paths_of_pairs(1, "crc32")
    assert first != second
    assert len(set(zip(first, second, strict=True))) == 8


@each("seed", [0, 1, 2**63 - 1])
def test_crc32_is_that_of_seed_source_and_destination(seed):
    for src, dst in PAIRS:
        item = Ecmp(seed, 8, "crc32").admit([RELEASE(0, src, dst, 1)], 0)[0]
        assert item.path == crc32(struct.pack("<QQQ", seed, src, dst)) % 8


@each("count, size", product([1, 2, 4, 7, 256], [1, 3, 4, 4001, 1_000_000]))
def test_subflows_differ_by_a_byte_at_most_and_none_is_empty(count, size):
    parts = Subflows(0, 8, count).admit([RELEASE(5, 0, 8, size)], 0)
    sizes = [part.bytes for part in parts]
    assert len(sizes) == min(count, size)
    assert sum(sizes) == size
    assert max(sizes) - min(sizes) <= 1
    assert [part.id for part in parts] == list(range(5 * count, 5 * count + len(parts)))


def test_each_subflow_of_a_pair_keeps_a_path_of_its_own():
    """Part by part the same for all messages of a pair; two parts agree as often as two draws of eight do."""
    transport = Subflows(2, 8, 4)
    agree = Counter[bool]()
    for src, dst in PAIRS:
        first, second = (
            [part.path for part in transport.admit([RELEASE(task, src, dst, size)], now_ps)]
            for task, size, now_ps in ((0, 4000, 0), (9, 123_456, 50))
        )
        assert first == second
        agree.update(first[one] == first[other] for one in range(4) for other in range(one))
    assert 0.08 < agree[True] / agree.total() < 0.17


def test_a_subflow_keeps_its_path_as_long_as_the_routing_does():
    transport = Subflows(2, 8, 4)
    for part in transport.admit([RELEASE(task, *pair, 4000) for task, pair in enumerate(PAIRS)], 0):
        assert transport.choose_path(part, 0, part.message.usable, 0) == part.path
