"""Scenes that are hard to end: failures for good, tight timeouts, tiny queues, several jobs, limits within reach."""

from random import Random
from typing import Any

from netsim.congestion.flow_control import PfcConfig
from netsim.congestion.recovery import GoBackNConfig, RecoveryConfig, SelectiveConfig
from netsim.engine.limits import LimitsConfig
from netsim.engine.protocol import Scene
from netsim.topology.failure import FailureConfig
from netsim.topology.protocol import Topology
from netsim.workload.tasks import Task
from tests.netsim.random_scenes import _tasks, _topology, _with_feedback
from tests.netsim.scenes import all_to_all, fabric, scene

KINDS = {"spines_down": 1, "below_round_trip": 1, "open": 2, "hard": 8}
"""Kinds of scenes and their weights: the two that did not end, open loops, and everything at once."""


def hard_scene(random: Random) -> tuple[str, Scene]:
    """A scene and its kind; one that neither ends nor reaches a limit within some thousand events is a fault."""
    kind = random.choices([*KINDS], [*KINDS.values()])[0]
    while True:
        topology, tasks, failures = _parts(random, kind)
        found = scene(
            topology,
            tasks,
            payload=random.choice(["4000B", "1000B", "4096B"]),
            header=random.choice(["0B", "62B"]),
            scheduling=random.choice(["round_robin", "sequential"]),
            destinations=random.choice(["random", "rotated"]),
            failures=failures,
        )
        moves = [task for task in found.tasks if task.bytes]
        if all(found.routes.usable(found.hosts[task.src], found.hosts[task.dst]) for task in moves):
            return kind, _with_limits(random, kind, found if kind == "open" else _with_feedback(random, found))


def _parts(random: Random, kind: str) -> tuple[Topology, list[Task], list[FailureConfig]]:
    """Fabric, tasks and failures."""
    if kind == "spines_down":
        spines = [{"switch": f"spine{number}", "at": f"{random.randint(1, 20)}us"} for number in range(2)]
        size = random.choice([30_000, 100_000, 700_000])
        return fabric(2, 2, 2), all_to_all(4, size), [FailureConfig.model_validate(spine) for spine in spines]
    topology = _topology(random)
    ranks = topology.hosts * topology.ranks_per_host
    tasks = _tasks(random, ranks)
    if kind == "open":
        return topology, [task._replace(after=()) for task in tasks], []
    for _ in range(random.choice([0, 0, 1, 2])):
        tasks = _with_job(random, tasks, _tasks(random, ranks))
    return topology, tasks, _failures(random, topology) if random.random() < 0.6 else []


def _with_job(random: Random, tasks: list[Task], further: list[Task]) -> list[Task]:
    """Another job, which starts a little later."""
    start, first = random.choice([0, random.randint(0, 2 * 10**7)]), len(tasks)
    return tasks + [
        Task(
            task.src,
            task.dst,
            task.bytes,
            task.delay_ps + (0 if task.after else start),
            tuple(first + earlier for earlier in task.after),
        )
        for task in further
    ]


def _failures(random: Random, topology: Topology) -> list[FailureConfig]:
    """Of cables of hosts and switches, and of whole switches; short, long or for good, noticed or not."""
    links = [link.name for link in topology.links if not link.name.endswith("inside")]
    switches = [name for tier in topology.tiers[1:] or topology.tiers for name in tier]
    failures = []
    for _ in range(random.randint(1, 6)):
        at = random.randint(1, 4 * 10**7)
        place = {"switch": random.choice(switches)} if random.random() < 0.3 else {"link": random.choice(links)}
        noticed = random.choice(["0us", "1us", "30us", "1ms", None])
        entry: dict[str, Any] = {**place, "at": f"{at}ps", "noticed_after": noticed}
        if random.random() < 0.75:
            entry["until"] = f"{at + random.choice([random.randint(1, 10**7), random.randint(1, 10**9)])}ps"
        if random.random() < 0.25:
            entry["rate"] = "5Gbps"
        failures.append(FailureConfig.model_validate(entry))
    return failures


def _with_limits(random: Random, kind: str, found: Scene) -> Scene:
    """The scene with timeouts and queues that hurt, and limits that may be reached."""
    limits: dict[str, Any] = {"fruitless": random.choice([5, 30, 256])}
    if random.random() < 0.25:
        limits["simulated"] = f"{random.randint(10**6, 10**8)}ps"
    found = found._replace(limits=LimitsConfig.model_validate(limits))
    if found.recovery.kind == "none":
        return found
    tight = kind == "below_round_trip" or random.random() < 0.3
    keys: dict[str, Any] = {
        "timeout": random.choice(["500ns", "1us", "3us"] if tight else ["10us", "50us", "auto", "auto"]),
        "shortest_timeout": random.choice(["1us", "5us", "20us", "1ms"]),
        "longest_timeout": random.choice(["1us", "20us", "1ms", "100ms"]),
    }
    recovery: RecoveryConfig = GoBackNConfig.model_validate({"kind": "go_back_n", **keys})
    if found.recovery.kind == "selective":
        recovery = SelectiveConfig.model_validate(
            {"kind": "selective", "reordering": found.recovery.reordering, **keys}
        )
    largest = found.packet.payload + found.packet.header + 500
    if found.queue_bytes is not None and random.random() < 0.5:
        found = found._replace(queue_bytes=random.choice([largest, 2 * largest]))
    if found.flow_control.kind == "none" and random.random() < 0.1:
        pauses = {"kind": "pfc", "pause_above": random.choice(["12KB", "40KB"]), "resume_at": "8KB"}
        found = found._replace(flow_control=PfcConfig.model_validate(pauses))
    return found._replace(recovery=recovery)
