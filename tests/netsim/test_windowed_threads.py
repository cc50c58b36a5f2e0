"""Threads of the windowed engine: a run is the same to the last bit, however many share it."""

from random import Random

import numpy as np
import pytest

from netsim.compare import simulate
from netsim.congestion.flow_control import AcknowledgementConfig
from netsim.engine.event.engine import EventEngine
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.engine.windowed import regions
from netsim.engine.windowed.engine import WindowedEngine
from netsim.engine.windowed.refusal import refusal, splits, threads_for
from netsim.engine.windowed.regions import owners_of, regions_of
from netsim.engine.windowed.wheel_layout import WINDOWS
from netsim.topology.cabled import WithDetours
from netsim.topology.failure import FailureConfig
from netsim.transport.spray import SprayRandom
from netsim.workload.tasks import Task
from tests.netsim.random_scenes import OPTIONS, random_scene, transport_of, with_errors, with_queues
from tests.netsim.scenes import all_to_all, fabric, flow, scene
from tests.netsim.test_event_engine import CONGESTION, DCTCP, PATTERNS, SELECTIVE
from tests.netsim.test_windowed_engine import QUEUES, end_of

THREADS = [2, 3]
SPLIT = [name for name in OPTIONS if name != "adaptive_flow"]
"""Transports that several threads may share."""


def alike(what: Scene, transport: str, threads: int, seed: int = 0) -> Outcome:
    """The run of several threads, which is that of the reference engine."""
    make = transport_of(transport, Random(seed), seed, what.most_paths)
    assert refusal(what, make()) is None
    assert splits(what, make())
    expected = ReferenceEngine(what, make(), seed).run()
    found = WindowedEngine(what, make(), seed, threads=threads).run()
    assert found.equals(expected)
    return found


@pytest.mark.parametrize("queues", [False, True])
@pytest.mark.parametrize("seed", range(16))
def test_random_scenes(seed, queues):
    random = Random(seed)
    while True:
        what = random_scene(random)
        what = with_queues(random, what) if queues else what
        what = with_errors(random, what) if seed % 4 == 3 else what
        make = transport_of(SPLIT[seed % len(SPLIT)], random, seed, what.most_paths)
        detours = isinstance(what.topology, WithDetours) and not make().takes_detours
        if not detours and refusal(what, make()) is None and splits(what, make()):
            break
    expected = end_of(ReferenceEngine(what, make(), seed))
    for threads in THREADS:
        found = end_of(WindowedEngine(what, make(), seed, threads=threads))
        same = found.equals(expected) if isinstance(expected, Outcome) and isinstance(found, Outcome) else None
        assert found == expected if same is None else same


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("transport", SPLIT)
def test_drops_and_what_goes_again(transport, threads):
    what = scene(fabric(4, 2, 1), [flow(src, 0, 60_000) for src in range(1, 4)])
    lossy = what._replace(congestion=CONGESTION["none"], recovery=SELECTIVE, queue_bytes=16_000)
    assert alike(lossy, transport, threads).losses.dropped > 0


@pytest.mark.parametrize("congestion", CONGESTION)
def test_a_spine_that_fails_for_a_while(congestion):
    failure = FailureConfig.model_validate({"switch": "spine1", "at": "3us", "until": "40us", "noticed_after": "10us"})
    what = scene(fabric(4, 3, 2), PATTERNS["all_to_all"], failures=[failure])
    alike(what._replace(congestion=CONGESTION[congestion], recovery=SELECTIVE), "ethereal", 2)


@pytest.mark.slow
@pytest.mark.parametrize("queues", [None, *QUEUES])
@pytest.mark.parametrize("congestion", CONGESTION)
@pytest.mark.parametrize("pattern", ["all_to_all", "incast", "ring"])
@pytest.mark.parametrize("transport", SPLIT)
def test_all_kinds_of_runs(transport, pattern, congestion, queues):
    """With a spine that fails for a while, and two or three threads."""
    failure = FailureConfig.model_validate({"switch": "spine1", "at": "3us", "until": "40us", "noticed_after": "10us"})
    what = scene(fabric(4, 3, 2), PATTERNS[pattern], failures=[failure])._replace(**QUEUES.get(queues, {}))
    what = what._replace(congestion=CONGESTION[congestion], recovery=SELECTIVE)
    for threads in THREADS:
        alike(what, transport, threads)


@pytest.mark.parametrize("lane", ["control", "data"])
@pytest.mark.parametrize("queues", QUEUES)
def test_links_with_queues(queues, lane):
    what = scene(fabric(4, 2, 2), [flow(src, 0, 300_000) for src in range(1, 8)])._replace(**QUEUES[queues])
    answers = AcknowledgementConfig.model_validate({"lane": lane})
    alike(what._replace(acknowledgement=answers, recovery=SELECTIVE), "drill", 2)


@pytest.mark.parametrize("transport", ["ecmp", "jsq"])
def test_switches_inside_hosts_lie_in_regions_of_switches(transport, monkeypatch):
    """Also with one thread, where a fabric has many links."""
    monkeypatch.setattr(regions, "LINKS_OF_REGION", 2)
    topology = fabric(2, 2, 2, adapters_per_host=2, ranks_per_host=2, gpu_link_rate="400Gbps")
    gpus = range(topology.hosts // 2, topology.hosts)
    tasks = [*all_to_all(topology.hosts // 2, 30_000), *(flow(src, src ^ 1, 70_000) for src in gpus)]
    for threads in (1, 2):
        alike(scene(topology, tasks)._replace(congestion=DCTCP), transport, threads)


def test_tasks_begin_at_hosts_of_other_threads_in_the_middle_of_a_window():
    """Each message waits for one inside its host, and for one that has come to its host from another leaf."""
    hosts, tasks = 8, []
    for turn in range(6):
        for host in range(hosts):
            inside, came = 2 * hosts * (turn - 1) + 2 * host, 2 * hosts * (turn - 1) + 2 * ((host - 3) % hosts) + 1
            tasks.append(Task(host, host, 5_000, 0, (came,) if turn else ()))
            tasks.append(Task(host, (host + 3) % hosts, 9_000, 0, (inside, came) if turn else ()))
    outcome = alike(scene(fabric(4, 2, 2), tasks)._replace(congestion=DCTCP, recovery=SELECTIVE), "reps", 2)
    assert len(outcome.flows) == len(tasks)


def test_packets_that_wait_for_longer_than_the_wheel_turns():
    what = scene(fabric(2, 1, 4, link_delay="1ns"), [flow(src, 0, 220_000) for src in range(1, 8)])
    outcome = alike(what, "ecmp", 2)
    assert outcome.links.max_queue_ps.max() > 1000 * WINDOWS


def test_more_threads_than_leaves():
    alike(scene(fabric(2, 2, 2), all_to_all(4, 50_000))._replace(congestion=DCTCP), "spray_random", 5)


def test_every_region_has_a_thread_and_every_thread_regions_of_both_kinds():
    what = scene(fabric(4, 2, 2), all_to_all(8, 10_000))
    state = EventEngine(what, SprayRandom(0, what.most_paths), 0)._state
    for threads in range(1, 9):
        count = regions_of(state, threads)
        owners = owners_of(count, threads)
        for kind in (owners[: max(1, count // 2)], owners[count // 2 :]):
            shares = np.bincount(kind, minlength=threads)
            assert shares.min() == shares.max() > 0


def test_what_several_threads_must_not_share():
    what = scene(fabric(4, 2, 2), all_to_all(8, 10_000))
    adaptive = transport_of("adaptive_flow", Random(0), 0, what.most_paths)()
    spray = SprayRandom(0, what.most_paths)
    assert not splits(what, adaptive)
    assert splits(what, spray)
    assert threads_for(what, spray, cores=8) == 1


def test_large_runs_take_cores_that_other_runs_leave():
    what = scene(fabric(16, 16, 32), [flow(src, (src + 37) % 512, 100_000) for src in range(512)])
    what = what._replace(congestion=DCTCP, recovery=SELECTIVE)
    spray = SprayRandom(0, what.most_paths)
    assert [threads_for(what, spray, cores) for cores in (1, 2, 8)] == [1, 2, 4]
    one, two = (WindowedEngine(what, SprayRandom(0, what.most_paths), 0, threads=threads).run() for threads in (1, 2))
    assert two.equals(one)


def test_cores_do_not_change_results():
    scenario = {
        "format": "flowfabric.scenario/1",
        "topology": {"kind": "leaf_spine", "leaves": 16, "spines": 16, "hosts_per_leaf": 16},
        "workload": {"kind": "collective", "op": "all_reduce", "bytes_per_rank": "200KB"},
        "congestion": {"kind": "dctcp"},
        "recovery": {"kind": "selective"},
        "engine": "windowed",
        "transports": ["reps"],
        "seeds": [0],
    }
    results = [simulate(scenario, jobs=jobs) for jobs in (1, 2)]
    one, two = (result.runs[0].to_dict(result.links) | {"wall_s": 0} for result in results)
    assert two == one
