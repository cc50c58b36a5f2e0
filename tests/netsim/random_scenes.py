"""Scenes and transports drawn from a seed: for tests in which two engines must agree."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, cast, get_args

import numpy as np

from netsim.congestion import CongestionConfig
from netsim.congestion.credit import NdpConfig, ReceiverCreditConfig
from netsim.congestion.dcqcn import DcqcnConfig
from netsim.congestion.dctcp import DctcpConfig
from netsim.congestion.flow_control import AcknowledgementConfig, NoFlowControlConfig, PfcConfig, TrimConfig
from netsim.congestion.nscc import NsccConfig
from netsim.congestion.recovery import GoBackNConfig, NoRecoveryConfig, SelectiveConfig
from netsim.congestion.swift import SwiftConfig
from netsim.congestion.window import NoneConfig, WindowConfig
from netsim.engine.protocol import Scene
from netsim.topology.dragonfly import Dragonfly, DragonflyConfig
from netsim.topology.failure import FailureConfig
from netsim.topology.fat_tree import FatTree, FatTreeConfig
from netsim.topology.keys import LinkErrorsConfig, SharedBufferConfig
from netsim.topology.protocol import Topology
from netsim.topology.torus import Torus, TorusConfig
from netsim.transport.build import PACKET_TRANSPORTS
from netsim.transport.protocol import Transport
from netsim.workload.tasks import Task, Tasks
from tests.netsim.scenes import all_to_all, fabric, flow, scene

OPTIONS: dict[str, dict[str, list[Any]]] = {
    "adaptive_flow": {},
    "drb": {},
    "drill": {"d": [1, 2, 4], "m": [0, 1, 2]},
    "ecmp": {"hash": ["random", "crc32"]},
    "ethereal": {
        "pieces": ["equal", "minimal"],
        "randomise": [True, False],
        "order": ["nic", "published", "staggered"],
        "start_delay": [0, 50_000],
        "avoid": [10**7, 10**11],
    },
    "flowlet": {"gap": [0, 500_000, 10**6]},
    "jsq": {"step": [0, 320_000], "ties": ["turn", "drawn"]},
    "reps": {
        "cache": [1, 2, 8],
        "freeze": [10**7, 10**9],
        "mark_above": [8000],
        "every": [1, 1, 3],
        "explore": [0, 0, 3],
        "entropies": [None, 5],
        "forgive_last_link": [False, True],
    },
    "spray_random": {"entropies": [None, None, 7], "order": ["drawn", "rounds"]},
    "spray_round_robin": {},
    "subflows": {"count": [1, 3, 4]},
    "ugal": {"bias": [0, 320_000]},
    "valiant": {},
}
"""For each transport the values of its options to choose from."""


def transport_of(name: str, random: Random, seed: int, most_paths: int) -> Callable[[], Transport]:
    """Makes a transport of a kind again and again, with options drawn once."""
    options = {option: random.choice(values) for option, values in OPTIONS[name].items()}
    return lambda: PACKET_TRANSPORTS[name](seed, most_paths, **options)


def random_scene(random: Random) -> Scene:
    """A small scene, lossy or not, closed loop or not, in which every message has a path at the beginning."""
    while True:
        topology = _topology(random)
        failures = _failures(random, topology) if random.random() < 0.35 else []
        found = scene(
            topology,
            _tasks(random, topology.hosts * topology.ranks_per_host),
            payload=random.choice(["4000B", "1000B", "4096B"]),
            header=random.choice(["0B", "62B"]),
            scheduling=random.choice(["round_robin", "sequential"]),
            destinations=random.choice(["random", "rotated"]),
            failures=failures,
        )
        if has_paths(found):
            return _with_feedback(random, found)


def has_paths(found: Scene) -> bool:
    """Whether every message has a path at the beginning."""
    moves = [task for task in found.tasks if task.bytes]
    return all(found.routes.usable(found.hosts[task.src], found.hosts[task.dst]) for task in moves)


def _topology(random: Random) -> Topology:
    if random.random() < 0.15:
        ends: dict[str, Any] = {
            "hosts_per_switch": random.choice([1, 2]),
            "link_delay": random.choice(["500ns", "0ns"]),
        }
        if random.random() < 0.5:
            torus = Torus(TorusConfig.model_validate({"kind": "torus", "dims": [2, 3], **ends}))
            return cast(Topology, torus.with_detours)
        shape = {"kind": "dragonfly", "switches_per_group": 2, "global_links": 1, "groups": random.choice([2, 3])}
        return cast(Topology, Dragonfly(DragonflyConfig.model_validate(shape | ends)).with_detours)
    if random.random() < 0.3:
        shape = {"kind": "fat_tree", "k": 4, "link_delay": random.choice(["500ns", "100ns"])}
        return FatTree(FatTreeConfig.model_validate(shape))
    fields: dict[str, Any] = {"parallel": random.choice([1, 1, 2]), "ranks_per_host": random.choice([1, 1, 2])}
    spines = random.randint(1, 4)
    fields["fabric_rate"] = random.choice(
        ["100Gbps", "100Gbps", "37Gbps", [random.choice(["25Gbps", "100Gbps"]) for _ in range(spines)]]
    )
    fields["host_rate"] = random.choice(["100Gbps", "100Gbps", "10Gbps", "400Gbps"])
    fields["link_delay"] = random.choice(["500ns", "500ns", "0ns", "3us", "320ns"])
    return fabric(random.randint(1, 4), spines, random.randint(2, 3), **fields)


def _tasks(random: Random, ranks: int) -> list[Task]:
    def size() -> int:
        return random.choice([1, 500, 4000, 4001, 30_000, random.randint(1, 60_000)])

    match random.choice(["all_to_all", "incast", "permutation", "ring", "mixed", "mixed"]):
        case "all_to_all":
            return all_to_all(min(ranks, 8), size())
        case "incast":
            return [flow(src, 0, 2 * size()) for src in range(1, ranks)]
        case "permutation":
            order = random.sample(range(ranks), ranks)
            return [flow(src, dst, 3 * size()) for src, dst in enumerate(order) if src != dst]
        case "ring":
            earlier = [[((step - 1) * ranks + (rank - 1) % ranks,) for rank in range(ranks)] for step in range(1, 4)]
            steps = [[()] * ranks, *earlier]
            return [
                Task(rank, (rank + 1) % ranks, size(), random.choice([0, 1000]), after)
                for step in steps
                for rank, after in enumerate(step)
            ]
        case _:
            tasks: list[Task] = []
            for index in range(random.choice([5, 20, 40])):
                src, dst = random.randrange(ranks), random.randrange(ranks)
                after = tuple(sorted({random.randrange(index) for _ in range(random.randint(0, 2))})) if index else ()
                delay_ps = random.choice([0, 0, 320_000, random.randint(0, 10**7)])
                tasks.append(Task(src, dst, size() if src != dst and random.random() < 0.85 else 0, delay_ps, after))
            return tasks


def _failures(random: Random, topology: Topology) -> list[FailureConfig]:
    links = [link.name for link in topology.links if not link.name.endswith("inside")]
    failures = []
    for _ in range(random.randint(1, 3)):
        link, at = random.choice(links), random.choice([0, random.randint(1, 3 * 10**7)])
        lasts = "host" in link or random.random() < 0.6
        entry: dict[str, Any] = {"link": link, "at": f"{at}ps", "noticed_after": random.choice(["1us", "5us", None])}
        if lasts:
            entry["until"] = f"{at + random.randint(1, 4 * 10**7)}ps"
        if random.random() < 0.4:
            entry["rate"] = "5Gbps"
        failures.append(FailureConfig.model_validate(entry))
    return failures


def not_among(known: Iterable[CongestionConfig], *kinds: str) -> list[CongestionConfig]:
    """A control of each kind that is neither among these nor named, with its defaults: new kinds are compared too."""
    known_kinds = {control.kind for control in known} | {*kinds}
    sections = get_args(get_args(CongestionConfig)[0])
    return [section(kind=kind) for section in sections if (kind := _kind_of(section)) not in known_kinds]


def _kind_of(section: Any) -> str:
    return get_args(section.model_fields["kind"].annotation)[0]


def _with_feedback(random: Random, found: Scene) -> Scene:
    window, timeout = random.choice(["bdp", 1, 3, 20]), random.choice(["20us", "30us", "100us"])
    drawn = [
        NoneConfig(),
        WindowConfig.model_validate({"kind": "window", "window": window}),
        DctcpConfig.model_validate(
            {
                "kind": "dctcp",
                "window": window,
                "alpha": random.choice([0, 1]),
                "mark_above": random.choice(["8KB", "20KB"]),
            }
        ),
        SwiftConfig.model_validate(
            {"kind": "swift", "window": window, "queueing": "1us", "flow_scaling": random.choice(["0us", "9us"])}
        ),
        SwiftConfig.model_validate({"kind": "swift", "window": window, "queueing": "0us", "smallest_window": 0.3}),
        quick_dcqcn(),
        NsccConfig.model_validate({"kind": "nscc", "window": window, "round_trip": random.choice(["auto", "9us"])}),
    ]
    congestion = random.choice([*drawn, *not_among(drawn, "receiver_credit", "ndp")])
    if "state" in type(congestion).model_fields:
        congestion = congestion.model_copy(update={"state": random.choice(["message", "queue_pair"])})
    lossy = random.random() < 0.6
    reordering = random.choice([None, 0, 3, 16])
    recovery = random.choice(
        [
            GoBackNConfig.model_validate({"kind": "go_back_n", "timeout": timeout}),
            SelectiveConfig.model_validate({"kind": "selective", "timeout": timeout, "reordering": reordering}),
        ]
    )
    if not lossy and not found.rates.lossy and random.random() < 0.5:
        recovery = NoRecoveryConfig()
    if recovery.kind == "selective" and random.random() < 0.3:
        grant = random.choice([1, 4])
        congestion = random.choice(
            [
                ReceiverCreditConfig.model_validate({"kind": "receiver_credit", "window": window, "grant": grant}),
                NdpConfig.model_validate({"kind": "ndp", "window": window, "pace": 0.8}),
            ]
        )
    trim = TrimConfig.model_validate({"kind": "trim", "header": random.choice(["64B", "80B", "200B"])})
    answer = {
        "size": random.choice(["64B", "84B", "500B"]),
        "lane": random.choice(["control", "control", "priority", "data"]),
    }
    return found._replace(
        queue_bytes=random.choice([12_000, 20_000, 40_000]) if lossy else None,
        congestion=congestion,
        recovery=recovery,
        flow_control=random.choice([NoFlowControlConfig(), NoFlowControlConfig(), trim]),
        acknowledgement=AcknowledgementConfig.model_validate(answer),
    )


def with_errors(random: Random, found: Scene) -> Scene:
    """The scene on links with errors."""
    retry = random.choice(["link", "none"]) if found.recovery.kind != "none" else "link"
    return found._replace(link_errors=LinkErrorsConfig.model_validate({"rate": 0.05, "retry": retry}))


def with_background(random: Random, found: Scene) -> Scene:
    """The scene with messages of which some are in the background, at the end."""
    tasks = list(found.tasks)
    for _ in range(random.choice([5, 20])):
        src, dst = random.sample(range(len(found.hosts)), 2)
        start_ps = random.randint(0, 4 * 10**7)
        tasks.append(Task(src, dst, random.choice([1, 4000, 60_000]), start_ps, (), 0, True))
    return found._replace(tasks=Tasks(tasks))


def with_late_marks(random: Random, found: Scene) -> Scene:
    """The scene, under NSCC mostly with packets that are marked as they leave."""
    if not isinstance(found.congestion, NsccConfig) or random.random() < 0.3:
        return found
    return found._replace(congestion=found.congestion.model_copy(update={"marks": "departure"}))


def with_shared_draws(random: Random, found: Scene) -> Scene:
    """The scene with tasks of which some have the draws of earlier ones, as equal collectives do."""
    keys = [random.choice([task, random.randint(0, task)]) for task in range(len(found.tasks))]
    return found._replace(tasks=found.tasks.with_keys(np.array(keys, dtype=np.int64)))


def with_queues(random: Random, found: Scene) -> Scene:
    """The scene with pauses, shared memory or classes, or several of them."""
    classes = random.choice([1, 1, 2, 3])
    drops = found.recovery.kind != "none"
    kind = random.choice(["pauses", "follows", *(["shared"] if drops else []), *(["ports"] if classes > 1 else [])])
    buffer, control, room = None, found.flow_control, found.queue_bytes
    size = random.choice([20_000, 50_000, 200_000])
    if kind in ("follows", "shared"):
        needed = _headroom(found) * classes if kind == "follows" else 0
        alpha = random.choice([0.125, 0.5, 1.0, 1.7, 8.0])
        buffer, room = (
            SharedBufferConfig.model_validate({"kind": "shared", "size": f"{size + needed}B", "alpha": alpha}),
            None,
        )
    above = random.choice([1, 4000, 9000, 30_000])
    headroom = random.choice(["auto", "auto", "2KB"]) if drops else "auto"
    if kind == "pauses":
        thresholds = {"pause_above": f"{above}B", "resume_at": f"{above // 2}B", "headroom": headroom}
        control = PfcConfig.model_validate({"kind": "pfc", **thresholds})
    if kind == "follows":
        thresholds = {"pause_above": "dynamic", "resume_below": f"{random.choice([0, 4000])}B", "headroom": headroom}
        control = PfcConfig.model_validate({"kind": "pfc", **thresholds})
    lane = random.choice(["control", "data"])
    return found._replace(
        tasks=Tasks(task._replace(traffic_class=random.randrange(classes)) for task in found.tasks),
        classes=classes,
        buffer=buffer,
        queue_bytes=room,
        flow_control=control,
        acknowledgement=found.acknowledgement.model_copy(update={"lane": lane}),
        weights=random.choice([(), (3, 1, 2)[:classes], (0, 1, 5)[:classes]]),
    )


def _headroom(found: Scene) -> int:
    """Enough for all links of any switch."""
    links = found.topology.links
    one = max(link.rate_bps * 2 * link.delay_ps // (8 * 10**12) + 2 * 5000 for link in links)
    return one * max(Counter(link.dst for link in links).values())


def quick_dcqcn() -> DcqcnConfig:
    """DCQCN whose timers run out within the few microseconds of a test."""
    constants = {
        "mark_from": "4KB",
        "mark_all": "40KB",
        "mark_at_most": 0.3,
        "notify_every": "2us",
        "estimate_every": "3us",
        "increase_every": "3us",
        "increase_bytes": "40KB",
        "fast_steps": 1,
        "additive": "2Gbps",
        "hyper": "5Gbps",
    }
    return DcqcnConfig.model_validate({"kind": "dcqcn", **constants})


def odd_scene(seed: int) -> Scene:
    """A small fabric with odd rates and messages at coarse times, so that many packets meet in one instant."""
    draw = random.Random(seed)
    leaves, spines, per_leaf = draw.randint(1, 4), draw.randint(1, 5), draw.randint(1, 4)
    rates = ["100Gbps", "100Gbps", "40Gbps", "33Gbps"]
    topology = fabric(
        leaves,
        spines,
        per_leaf,
        ranks_per_host=draw.randint(1, 2),
        host_rate=draw.choice(rates),
        fabric_rate=draw.choice(rates),
        link_delay=draw.choice(["500ns", "0ns", "320ns"]),
    )
    ranks = topology.hosts * topology.ranks_per_host
    sizes = [0, 1, 3999, 4000, 16000, draw.randint(1, 30000)]
    tasks = [
        flow(draw.randrange(ranks), draw.randrange(ranks), draw.choice(sizes), 320_000 * draw.randrange(6))
        for _ in range(draw.randint(1, 60))
    ]
    tasks = [task if task.src != task.dst else task._replace(bytes=0) for task in tasks]
    orders: dict[str, Any] = {
        "scheduling": draw.choice(["round_robin", "sequential"]),
        "destinations": draw.choice(["random", "rotated"]),
        "header": draw.choice(["0B", "62B"]),
    }
    return scene(topology, tasks, **orders)
