"""The exact engine gives the reference engine's outcome to the last bit."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

from pydantic import TypeAdapter

from netsim.simulation.prepare import prepare
from netsim.simulation.scenario import read_scenario
from netsim.topology.failure import FailureConfig
from netsim.topology.kinds import TopologyConfig
from netsim.workload.tasks import Task
from tests.each import each
from tests.netsim.exactly import assert_equal
from tests.netsim.random_scenes import odd_scene
from tests.netsim.scenes import all_to_all, flow, scene
from tests.pairwise import pairwise_cover

ROUTINGS: dict[str, Any] = {
    "ecmp": "ecmp",
    "ecmp-crc32": {"kind": "ecmp", "hash": "crc32"},
    "mprdma-4": "mprdma-4",
    "flowlet": {"kind": "flowlet", "gap": "1us"},
    "spray_round_robin": "spray_round_robin",
    "spray_random": "spray_random",
    "drb": "drb",
    "ethereal": "ethereal",
    "ethereal-minimal": {"kind": "ethereal", "pieces": "minimal"},
    "ethereal-in-order": {"kind": "ethereal", "randomise": False},
    "ethereal-delayed": {"kind": "ethereal", "start_delay": "1us"},
    "ethereal-published": {"kind": "ethereal", "order": "published"},
    "ethereal-published-in-order": {
        "kind": "ethereal", "order": "published", "randomise": False, "pieces": "minimal", "start_delay": "1us",
    },
    "ethereal-staggered": {"kind": "ethereal", "order": "staggered"},
    "ethereal-staggered-minimal": {
        "kind": "ethereal", "order": "staggered", "pieces": "minimal", "start_delay": "50ns",
    },
}  # fmt: skip


def topology_of(**fields: Any) -> Any:
    return TypeAdapter(TopologyConfig).validate_python(fields).build()


def uneven(ranks: int, draw: Random) -> list[Task]:
    """An all-to-all in which some blocks are empty, as when experts are chosen at will."""
    sizes = [0, 1, 3999, 4000, 9000, 20_000]
    return [flow(src, dst, draw.choice(sizes)) for src in range(ranks) for dst in range(ranks) if src != dst]


def at_random_times(ranks: int, draw: Random) -> list[Task]:
    """Sizes at random, times too coarse for packets not to meet."""
    tasks = []
    for _ in range(40):
        src, dst = draw.sample(range(ranks), 2)
        tasks.append(flow(src, dst, draw.randint(1, 40_000), 320_000 * draw.randrange(8)))
    return tasks


def permutation(ranks: int, draw: Random) -> list[Task]:
    shift = draw.randrange(1, ranks)
    return [flow(src, (src + shift) % ranks, 50_000) for src in range(ranks)]


PATTERNS: dict[str, Callable[[int, Random], list[Task]]] = {
    "all_to_all": lambda ranks, draw: all_to_all(ranks, 4000 * draw.randint(1, 4)),
    "permutation": permutation,
    "incast": lambda ranks, _: [flow(src, 0, 20_000) for src in range(1, ranks)],
    "random": at_random_times,
    "uneven": uneven,
}
EQUAL = {"kind": "leaf_spine", "leaves": 3, "spines": 3, "hosts_per_leaf": 3}
DOWN = {"link": "leaf0-spine1", "rate": 0}
SLOWER = {"link": "leaf1-spine0", "at": "3us", "until": "9us", "rate": "10Gbps"}
SLOW_HOST = {"link": "host1-leaf0", "at": "2us", "rate": "33Gbps"}
REPAIRED = {"link": "leaf1-spine2", "rate": 0, "until": "4us", "noticed_after": "1us"}
CONDITIONS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "equal rates": ({}, []),
    "unequal rates": ({"host_rate": "40Gbps", "fabric_rate": ["100Gbps", "33Gbps", "10Gbps"]}, []),
    "down from the beginning": ({}, [DOWN]),
    "other rates at times": ({}, [SLOWER, SLOW_HOST]),
    "repaired": ({}, [DOWN, REPAIRED, SLOWER]),
}


@each("condition, pattern, routing", pairwise_cover(CONDITIONS, PATTERNS, ROUTINGS))
def test_equals_the_reference(routing, pattern, condition):
    draw = Random(f"{routing} {pattern} {condition}")
    fields, failures = CONDITIONS[condition]
    topology = topology_of(**EQUAL | fields)
    orders = {
        "scheduling": draw.choice(["round_robin", "sequential"]),
        "destinations": draw.choice(["random", "rotated"]),
        "header": draw.choice(["0B", "62B"]),
    }
    tasks = PATTERNS[pattern](topology.hosts, draw)
    found = [FailureConfig.model_validate(failure) for failure in failures]
    outcome = assert_equal(scene(topology, tasks, failures=found, **orders), ROUTINGS[routing], draw.randrange(2**63))
    assert outcome.packets


@each("seed, routing", product(range(5), ROUTINGS))
def test_equals_the_reference_on_odd_fabrics(routing, seed):
    """Any shape, ranks that share hosts, messages without bytes, no delay, several rates."""
    assert_equal(odd_scene(1000 + seed), ROUTINGS[routing], seed)


FABRICS: dict[str, dict[str, Any]] = {
    "parallel": {"kind": "leaf_spine", "leaves": 2, "spines": 2, "parallel": 3, "hosts_per_leaf": 2},
    "one leaf": {"kind": "leaf_spine", "leaves": 1, "spines": 1, "hosts_per_leaf": 5},
    "fat tree": {"kind": "fat_tree", "k": 4, "core_rate": "40Gbps"},
    "parallel fat tree": {
        "kind": "fat_tree", "pods": 2, "edges_per_pod": 2, "aggregations_per_pod": 1, "cores": 2, "hosts_per_edge": 2,
        "edge_parallel": 2, "ranks_per_host": 3,
    },
}  # fmt: skip


@each("fabric, routing", product(FABRICS, ROUTINGS))
def test_equals_the_reference_on_other_topologies(routing, fabric):
    topology = topology_of(**FABRICS[fabric])
    ranks = topology.hosts * topology.ranks_per_host
    assert_equal(scene(topology, uneven(ranks, Random(1)), header="40B"), ROUTINGS[routing], 5)


BALANCED = [routing for routing in ROUTINGS if routing.startswith("ethereal")]


@each("routing", BALANCED)
def test_equals_the_reference_where_links_up_lead_on_in_different_numbers_of_routes(routing):
    topology = topology_of(kind="fat_tree", k=6, hosts_per_edge=2)
    failures = [
        FailureConfig(link=link, rate=0) for link in ("aggregation1-core3", "aggregation6-core1", "edge3-aggregation5")
    ]
    draw = Random(routing)
    tasks = [
        flow(src, dst, draw.choice([1, 7000, 7000, 12_000]), 320_000 * draw.randrange(2))
        for src in range(topology.hosts)
        for dst in draw.sample(range(topology.hosts), 9)
    ]
    assert_equal(scene(topology, tasks, failures=failures), ROUTINGS[routing], draw.randrange(2**63))


@each("routing", ROUTINGS)
def test_tasks_without_bytes_hold_messages_back_and_wait_for_them(routing):
    tasks = [
        Task(0, 0, 0, 7000, ()),
        Task(1, 1, 0, 0, (0,)),
        Task(0, 3, 9000, 500, (0, 1)),
        Task(0, 2, 9000, 0, (1,)),
        Task(2, 2, 0, 11, (2, 3)),
        Task(2, 1, 5000, 0, ()),
        Task(0, 0, 0, 0, (4, 5)),
    ]
    what = scene(topology_of(**EQUAL), tasks)
    outcome = assert_equal(what, ROUTINGS[routing])
    assert outcome.task_end_ps[6] == max(outcome.task_end_ps[2:6])


@each("tasks, routing", product([[], [flow(0, 0, 0, 17)], [flow(0, 1, 1)]], ROUTINGS))
def test_little_or_nothing_to_do(routing, tasks):
    assert_equal(scene(topology_of(**EQUAL), tasks), ROUTINGS[routing])


@each("routing", ["ecmp", "mprdma-4", "ethereal"])
def test_packets_and_delays_as_large_as_they_come(routing):
    """Payloads of a gigabyte, slow links, and a delay that makes the intervals of the queue series double often."""
    topology = topology_of(**EQUAL | {"host_rate": "1Mbps", "fabric_rate": "3.6Tbps", "link_delay": "1s"})
    tasks = [*all_to_all(4, 10**6 + 1), flow(0, 8, 3 * 10**9 + 17, start_ps=10**15)]
    assert_equal(scene(topology, tasks, payload="1GB"), ROUTINGS[routing])


def test_equals_the_reference_on_a_scenario():
    """All ranks wait for all in the end: tasks without bytes that wait for messages."""
    read = read_scenario(
        Path("configs/scenarios/all_to_all_64.yaml"),
        ["topology.leaves=4", "topology.hosts_per_leaf=4", "workload.bytes_per_rank=256KB"],
    )
    assert_equal(prepare(read, "test").scene, "ethereal", 2)
