"""Programs of collectives that repeat, drawn from a seed: for tests of fast-forward."""

from random import Random
from typing import Any

from netsim.collective.columns import message_columns
from netsim.collective.protocol import Operation
from netsim.engine.protocol import Scene
from netsim.topology.failure import FailureConfig
from netsim.topology.leaf_spine import LeafSpineConfig
from netsim.workload.program import Program, keys_of
from tests.netsim.scenes import scene
from tests.netsim.schedules import ALGORITHMS

ROUTINGS: list[Any] = [
    {"kind": "ethereal", "order": "staggered"},
    {"kind": "ethereal", "order": "staggered", "pieces": "minimal"},
    {"kind": "ethereal", "randomise": False},
    "ecmp",
    {"kind": "ecmp", "hash": "crc32"},
    "mprdma-4",
]
DRAWN: list[Any] = [
    "ecmp",
    "spray_random",
    "drb",
    "spray_round_robin",
    "ethereal",
    "mprdma-4",
    {"kind": "ethereal", "pieces": "minimal", "start_delay": "50ns"},
    {"kind": "ethereal", "order": "published"},
]
"""Transports that draw for every message, or for those that a host releases together, or take paths in turn."""
CHOICES = {
    "all_reduce": ["ring", "ring", "recursive_doubling", "halving_doubling", "tree", "direct"],
    "all_gather": ["ring", "ring", "direct"],
    "reduce_scatter": ["ring", "direct"],
    "all_to_all": ["direct"],
    "broadcast": ["tree", "ring"],
}


def repeated_scene(random: Random, fewest: int = 2, most: int = 6, *, alike: bool = False) -> Scene:
    """Collectives of all or some ranks, one after the other at each rank, most of them again and again.

    Args:
        random: Draws.
        fewest: Least number of collectives.
        most: Largest number of collectives.
        alike: Equal collectives have equal draws.
    """
    fields: dict[str, Any] = {
        "kind": "leaf_spine",
        "leaves": random.randint(1, 4),
        "spines": random.randint(1, 4),
        "hosts_per_leaf": random.randint(1, 4),
        "ranks_per_host": random.choice([1, 1, 1, 2]),
        "parallel": random.choice([1, 1, 2]),
        "host_rate": random.choice(["100Gbps", "100Gbps", "33Gbps"]),
        "fabric_rate": random.choice(["100Gbps", "100Gbps", "40Gbps"]),
        "link_delay": random.choice(["500ns", "500ns", "0ns", "3us"]),
    }
    topology = LeafSpineConfig.model_validate(fields).build()
    ranks = topology.hosts * topology.ranks_per_host
    names = {op: random.choice(algorithms) for op, algorithms in CHOICES.items()}
    distinct = [_operation(random, ranks) for _ in range(random.randint(1, 3))]
    program = Program()
    order = random.sample(range(ranks), ranks) if random.random() < 0.3 else list(range(ranks))
    ends: list[tuple[int, ...]] = [()] * ranks
    gaps = random.choice([[0], [0], [0], [0, 1000], [5_000_000], [0, 320_000], [random.randint(1, 10**6)]])
    for _ in range(random.randint(fewest, most)):
        operation = random.choice(distinct)
        first = random.choice([0, 0, 0, ranks - operation.size])
        members = order[first : first + operation.size]
        come = [program.wait(rank, ends[rank], random.choice(gaps)) for rank in members]
        over = program.carry_out(
            message_columns(ALGORITHMS[operation.op, names[operation.op]](operation)), members, come
        )
        for rank, end in zip(members, over, strict=True):
            ends[rank] = (end,)
    down = [FailureConfig.model_validate({"link": "leaf0-spine1", "rate": 0})]
    broken = isinstance(fields["spines"], int) and fields["spines"] > 1 and fields["parallel"] == 1
    found = scene(
        topology,
        list(program.tasks),
        payload=random.choice(["4000B", "1000B", "4096B"]),
        header=random.choice(["0B", "62B"]),
        scheduling=random.choice(["round_robin", "round_robin", "sequential"]),
        destinations=random.choice(["random", "rotated"]),
        failures=down if broken and random.random() < 0.2 else (),
    )
    keys = keys_of(found.tasks.columns(), program.collectives) if alike else None
    return found._replace(tasks=found.tasks.with_keys(keys))


def _operation(random: Random, ranks: int) -> Operation:
    size = random.choice([ranks, ranks, max(1, ranks // 2)])
    op = random.choice(["all_reduce", "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"])
    whole = random.choice([1, 3, 500 * size, 4000 * size, 30_000 * size + 7, random.randint(1, 60_000 * size)])
    each = [whole // size + (rank < whole % size) for rank in range(size)]
    if op == "all_to_all":
        row = tuple(each)
        return Operation(op, size, matrix=(row,) * size)
    if op == "broadcast":
        return Operation(op, size, blocks=(whole,))
    return Operation(op, size, blocks=tuple(each))
