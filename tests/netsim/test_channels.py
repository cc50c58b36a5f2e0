"""Channels of rings and trees on hosts of several adapters: what each carries, in which order, and for whom."""

from itertools import product

import numpy as np

from netsim import simulate
from netsim.collective.algorithms import LEAST_PIECE_BYTES
from netsim.collective.build import Schedules
from netsim.collective.columns import message_columns
from netsim.collective.config import Algorithms
from netsim.collective.fastest import estimates
from netsim.collective.group import CHANNELLED, Group, orders, share, size_of
from netsim.topology.mapping import RankMap, rank_map
from netsim.workload.collective import operation
from tests.each import each
from tests.netsim.documents import collective_of, scenario_of
from tests.netsim.scenes import fabric
from tests.netsim.schedules import ALGORITHMS

HOSTS, GPUS = 4, 4
SHAPE = {"adapters_per_host": 4, "rails": True, "ranks_per_host": GPUS}
PAYLOAD = 4000


def rails():
    return fabric(4, 2, HOSTS, **SHAPE)


def adapters(hosts: int, gpus: int, each: int) -> RankMap:
    """RankMap of hosts with `each` GPUs behind an adapter."""
    ranks = range(hosts * gpus)
    machines = [rank // gpus for rank in ranks]
    return RankMap([rank // each for rank in ranks], machines, [*ranks])


@each("hosts, gpus, each", [(2, 4, 1), (4, 8, 1), (3, 4, 2), (4, 8, 2)])
def test_a_ring_enters_a_host_by_the_adapter_of_the_number_by_which_it_left_the_last_one(hosts, gpus, each):
    mapping = adapters(hosts, gpus, each)
    found = orders(mapping, ring=True)
    assert len(found) == gpus // each
    left: list[set[int]] = [set() for _ in range(hosts)]
    for order in found:
        assert sorted(order) == [*range(hosts * gpus)]
        for one, other in zip(order, (*order[1:], order[0]), strict=True):
            if mapping.machines[one] != mapping.machines[other]:
                left[mapping.machines[one]].add(one % gpus // each)
                wraps = mapping.machines[other] == 0 and hosts % 2
                assert wraps or one % gpus // each == other % gpus // each
    assert all(used == {*range(gpus // each)} for used in left)


def test_hosts_of_one_adapter_and_groups_on_one_host_have_no_channels():
    assert orders(adapters(4, 4, 4), ring=True) == ()
    assert orders(adapters(1, 4, 1), ring=True) == ()
    assert orders(adapters(4, 4, 1).of([0, 4, 8]), ring=True) == ()


@each("op, name", sorted(CHANNELLED))
def test_each_channel_is_the_plain_schedule_of_its_share_and_the_shares_make_the_whole(op, name):
    topology = rails()
    ranks = range(HOSTS * GPUS)
    whole = operation(op, len(ranks), 64 * LEAST_PIECE_BYTES + 5)
    mapping = rank_map(topology, ranks)
    found = orders(mapping, ring=name == "ring")
    parts = [share(whole, order, number, len(found)) for number, order in enumerate(found)]
    assert sum(map(size_of, parts)) == size_of(whole)
    if op in ("all_gather", "reduce_scatter"):
        held = np.zeros(len(ranks), dtype=np.int64)
        for order, part in zip(found, parts, strict=True):
            held[list(order)] += part.blocks
        assert held.tolist() == list(whole.blocks)
    made = Schedules(Algorithms.model_validate({op: name}), mapping, "scenario", topology)(whole, ranks)
    first = 0
    for order, part in zip(found, parts, strict=True):
        plain = message_columns(ALGORITHMS[op, name](part))
        own = slice(first, first + len(plain))
        place = np.array(order)
        assert np.array_equal(made.src[own], place[plain.src])
        assert np.array_equal(made.dst[own], place[plain.dst])
        assert np.array_equal(made.bytes[own], plain.bytes)
        begin, end = made.after_begin[first], made.after_begin[first + len(plain)]
        assert np.array_equal(made.after[begin:end] - first, plain.after)
        first += len(plain)
    assert first == len(made)


def test_all_adapters_carry_the_same_and_a_ring_crosses_no_spine_of_a_pod():
    document = scenario_of(
        4,
        2,
        HOSTS,
        collective_of("all_reduce", "16MB"),
        topology=SHAPE,
        packet={"payload": "64KB"},
        algorithms={"all_reduce": "ring"},
        engine="simpy",
    )
    results = simulate(document)
    carried = dict(zip((link.name for link in results.links), results.runs[0].links["bytes"].tolist(), strict=True))
    ranks = HOSTS * GPUS
    each = 2 * (ranks - 1) * 16_000_000 // (4 * ranks)
    for host in range(HOSTS):
        for adapter in range(4):
            assert carried[f"host{host}.{adapter}-leaf{adapter}"] == each
    assert not any(size for name, size in carried.items() if "spine" in name)


@each("name, size_bytes", product(["ring", "tree", "double_tree", "hierarchical"], [4, 1_000_000]))
def test_estimates_know_the_channels(name, size_bytes):
    document = scenario_of(
        4,
        4,
        HOSTS,
        collective_of("all_reduce", f"{size_bytes}B"),
        topology=SHAPE,
        algorithms={"all_reduce": name},
        transports=["spray_round_robin"],
        engine="simpy",
    )
    topology = fabric(4, 4, HOSTS, **SHAPE)
    group = Group(topology, rank_map(topology, range(HOSTS * GPUS)), PAYLOAD, 0)
    simulated = simulate(document).runs[0].completion_ps
    assert 0.7 * simulated <= estimates("all_reduce", group, size_bytes)[name] <= 1.35 * simulated
