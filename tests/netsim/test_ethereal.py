"""Ethereal's theorem in exact fractions, its pieces, and the conditions without which there is no equality."""

import random
from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import product
from math import gcd
from typing import get_args

from netsim.topology.failure import FailureConfig
from netsim.topology.fat_tree import FatTree, FatTreeConfig
from netsim.topology.protocol import Topology
from netsim.transport.ethereal import Ethereal, Order, Pieces
from netsim.transport.protocol import Flow, Release
from tests.each import each
from tests.netsim.releases import Releases, ideal_loads, loads
from tests.netsim.scenes import fabric

PIECES: tuple[Pieces, ...] = get_args(Pieces)
ORDERS: tuple[Order, ...] = get_args(Order)


@cache
def three_tiers() -> FatTree:
    """Hosts, edges and aggregations can all send at their hosts' rate."""
    return FatTree(FatTreeConfig.model_validate({"kind": "fat_tree", "k": 4}))


def random_fabric(draw: random.Random) -> Topology:
    """Three tiers, or two with parallel links now and then."""
    if not draw.randrange(5):
        return three_tiers()
    parallel = draw.choice([1, 1, 2, 3])
    return fabric(draw.randint(2, 5), draw.randint(1, 12 // parallel), draw.randint(1, 4), parallel=parallel)


def random_failures(draw: random.Random, topology: Topology) -> list[FailureConfig]:
    """Cables between switches and switches above the leaves that are down from the beginning."""
    links = [link.name for link in topology.links if not {link.src, link.dst} & hosts_of(topology)]
    upper = [switch for tier in topology.tiers[1:] for switch in tier]
    things = [draw.choice([{"link": draw.choice(links)}, {"switch": draw.choice(upper)}]) for _ in range(3)]
    return [FailureConfig.model_validate(thing) for thing in things[: draw.choice([0, 0, 1, 2, 3])]]


def hosts_of(topology: Topology) -> set[str]:
    return {f"host{host}" for host in range(topology.hosts)}


def random_messages(draw: random.Random, releases: Releases) -> list[list[Release]]:
    """For some hosts and leaves up to twenty messages of a size that r of them share over s paths without a rest."""
    topology, groups = releases.topology, []
    below: dict[int, list[int]] = {}
    for host in range(topology.hosts):
        below.setdefault(topology.leaf(host), []).append(host)
    for group in range(draw.randint(1, 6)):
        src, leaf = draw.randrange(topology.hosts), draw.choice(list(below))
        receivers = [host for host in below[leaf] if host != src and releases.routes.usable(src, host)]
        if not receivers:
            continue
        count, paths = draw.randint(1, 20), len(releases.routes.usable(src, receivers[0]))
        size = paths // gcd(count, paths) * (draw.randint(1, 500) * 6 + group)
        tasks = range(100 * group, 100 * group + count)
        groups.append([releases(task, src, draw.choice(receivers), size) for task in tasks])
    return groups


def released_together(groups: list[list[Release]]) -> list[list[Release]]:
    """The messages of each host."""
    by_host: dict[int, list[Release]] = {}
    for message in (message for group in groups for message in group):
        by_host.setdefault(message.src, []).append(message)
    return list(by_host.values())


@each("seed", range(200))
def test_on_every_link_exactly_what_ideal_spraying_puts_there(seed):
    """Fractions, no tolerance; for every host by itself, hence for all together. And so many pieces, not one more."""
    draw = random.Random(seed)
    topology = random_fabric(draw)
    groups = random_messages(draw, Releases(topology, random_failures(draw, topology)))
    for pieces, order in product(PIECES, ORDERS):
        transport = Ethereal(seed, 12, pieces, order=order)
        for messages in released_together(groups):
            flows = transport.admit(messages, 0)
            assert loads(flows) == ideal_loads(messages)
            carried = Counter[int]()
            for flow in flows:
                carried[flow.message.task] += flow.bytes
            assert carried == {message.task: message.bytes for message in messages}
            assert len({flow.id for flow in flows}) == len(flows)
            assert all(flow.id // transport.stride == flow.message.task for flow in flows)
            assert len(flows) == sum(fewest(pieces, group) for group in groups if group[0].src == messages[0].src)


def fewest(pieces: Pieces, group: list[Release]) -> int:
    """n - r whole flows, and r s / g equal pieces or r + s - g unequal ones of the other r."""
    count, paths = len(group), len(group[0].usable)
    if len(group[0].paths) == 1:
        return count
    rest = count % paths
    common = gcd(rest, paths)
    return count - rest + (rest * paths // common if pieces == "equal" else rest + paths - common if rest else 0)


def pieces_of(pieces: Pieces, count: int, paths: int, size_bytes: int, seed: int = 0) -> list[Flow]:
    """One host's messages to one leaf."""
    release = Releases(fabric(2, paths, 1))
    return Ethereal(seed, paths, pieces).admit([release(task, 0, 1, size_bytes) for task in range(count)], 0)


@each("count, paths", [(1, 16), (12, 16), (10, 16), (3, 4), (15, 16), (20, 8), (7, 7), (5, 1)])
def test_equal_pieces_are_as_few_as_equal_pieces_can_be(count, paths):
    """A path carries m pieces of 1/k of a flow only if m = r k / s is whole."""
    flows = pieces_of("equal", count, paths, 240 * paths)
    by_message = Counter(flow.message.task for flow in flows)
    rest = count % paths
    possible = next(k for k in range(1, paths + 1) if rest * k % paths == 0)
    assert sorted(by_message.values()) == [1] * (count - rest) + [possible] * rest
    whole, cut = Counter({240 * paths: count - rest}), Counter({240 * paths // possible: rest * possible})
    assert Counter(flow.bytes for flow in flows) == whole + cut


@each("paths", range(2, 25))
def test_minimal_pieces_are_r_and_s_less_their_common_divisor(paths):
    for rest in range(1, paths):
        flows = pieces_of("minimal", rest, paths, paths)
        assert len(flows) == rest + paths - gcd(rest, paths)
        assert set(loads(flows).values()) == {rest * paths, rest}


def fewest_by_search(count: int, paths: int) -> int:
    """Least number of pieces in which `count` flows load `paths` paths equally, over all routes to cut them.

    The loads solve linear equations with whole numbers on the right where a flow counts as s / g and a path as n / g.
    If the pieces of a solution close a circle of flows and paths, bytes moved round it make one piece vanish; without
    circles the solution is unique, and whole. So the search over whole numbers finds the least.
    """
    each, demand = paths // gcd(count, paths), count // gcd(count, paths)

    @cache
    def least(flows: int, room: tuple[int, ...]) -> int:
        """Pieces of so many flows where paths still have such room."""
        return min((used + least(flows - 1, left) for used, left in placed(each, room)), default=0) if flows else 0

    @cache
    def placed(size: int, room: tuple[int, ...]) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Routes to place one flow: number of pieces, and the room left, in ascending order."""
        if not room:
            return ((0, ()),) if not size else ()
        found: dict[tuple[int, ...], int] = {}
        for taken in range(min(size, room[0]) + 1):
            for used, left in placed(size - taken, room[1:]):
                key = tuple(sorted((room[0] - taken, *left)))
                found[key] = min(found.get(key, paths + 1), used + (taken > 0))
        return tuple((used, left) for left, used in found.items())

    return least(count, (demand,) * paths)


@each("paths", range(2, 7))
def test_no_route_to_cut_flows_has_fewer_pieces_than_the_minimal_one(paths):
    for count in range(1, 7):
        flows = pieces_of("minimal", count, paths, paths)
        assert len(flows) == fewest_by_search(count, paths) == count + paths - gcd(count, paths)


@each("seed", range(40))
def test_bytes_that_do_not_divide_cost_a_path_less_than_a_byte_a_piece(seed):
    """Equal pieces of a flow differ by a byte, so that s / g - 1 at most are longer; minimal: a byte a path in all."""
    draw = random.Random(seed)
    count, paths, size = draw.randint(1, 20), draw.randint(2, 12), draw.randint(1, 10_000)
    common, ideal = gcd(count % paths, paths), Fraction(count * size, paths)
    for pieces in PIECES:
        flows = pieces_of(pieces, count, paths, size, seed)
        assert all(flow.bytes > 0 for flow in flows)
        assert sum(flow.bytes for flow in flows) == count * size
        load = Counter(dict.fromkeys(range(paths), 0))
        for flow in flows:
            load[flow.path or 0] += flow.bytes
        error = max(abs(size - ideal) for size in load.values())
        assert error == 0 if not count % paths else error < (count % paths // common if pieces == "equal" else 1)
    longer = Counter(
        flow.message.task for flow in pieces_of("equal", count, paths, size) if flow.bytes > size // (paths // common)
    )
    assert max(longer.values(), default=0) <= max(paths // common - 1, 1)


def test_unequal_sizes_in_one_group_would_break_the_equality():
    """Whole flows of unequal size in turn are uneven; in groups of their own they are cut, and even."""
    release = Releases(fabric(2, 2, 2))
    unequal = [release(0, 0, 2, 1000), release(1, 0, 3, 3000)]
    whole = [Flow(message.task, message, message.bytes, turn) for turn, message in enumerate(unequal)]
    ideal = ideal_loads(unequal)
    assert max(abs(loads(whole)[link] - ideal[link]) for link in ideal) == 1000
    assert loads(Ethereal(0, 2).admit(unequal, 0)) == ideal


def test_spines_of_unequal_rate_break_it():
    """The rule counts paths, not rates: the slower of two spines takes 3/2 of the time that spraying by rate takes."""
    topology = fabric(2, 2, 1, fabric_rate=["100Gbps", "200Gbps"])
    load = loads(Ethereal(0, 2).admit([Releases(topology)(0, 0, 1, 9000)], 0))
    slowest = max(size / (topology.links[link].rate_bps // 10**11) for link, size in load.items() if link > 3)
    assert slowest == Fraction(3, 2) * 9000 / (1 + 2)


def test_a_spine_that_one_leaf_lacks_is_left_out_towards_that_leaf_only():
    """Equal to spraying over what is left, of each destination by itself; neither over all paths, nor the best."""
    topology = fabric(3, 2, 1)
    release = Releases(topology, [FailureConfig(link="spine0-leaf1")])
    messages = [release(0, 0, 1, 6000), release(1, 0, 2, 6000)]
    load = loads(Ethereal(0, 2).admit(messages, 0))
    assert load == ideal_loads(messages)
    everywhere = ideal_loads([message._replace(usable=(0, 1)) for message in messages])
    first, second = (index for index, link in enumerate(topology.links) if link.src == "leaf0" and "spine" in link.dst)
    assert (load[first], load[second]) == (3000, 9000)
    assert (everywhere[first], everywhere[second]) == (6000, 6000), "which no host can reach without the broken link"
    best = 6000
    assert max(load[first], load[second]) == Fraction(3, 2) * best, "message 1 over spine 0 alone would be even"


def test_batches_seen_apart_stay_balanced_and_cost_more_pieces():
    release = Releases(fabric(2, 4, 4))
    messages = [release(task, 0, 4 + task, 4000) for task in range(4)]
    apart = [flow for message in messages for flow in Ethereal(0, 4).admit([message], 0)]
    together = Ethereal(0, 4).admit(messages, 0)
    assert loads(apart) == loads(together) == ideal_loads(messages)
    assert (len(apart), len(together)) == (16, 4)
