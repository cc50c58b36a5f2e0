"""What is of the windowed engine alone: windows, words that stop queues, sorting, regions, and threads in one run."""

from itertools import product
from random import Random
from typing import Any

import numpy as np
import pytest

from netsim.congestion.flow_control import AcknowledgementConfig, PfcConfig
from netsim.congestion.nscc import NsccConfig
from netsim.engine import _core
from netsim.engine.core.shared import number, record
from netsim.engine.event.engine import EventEngine
from netsim.engine.protocol import Scene
from netsim.engine.windowed.engine import WINDOWS, WindowedEngine, owners_of, regions_of
from netsim.engine.windowed.refusal import fills_windows, refusal, splits, threads_for
from netsim.topology.failure import FailureConfig
from netsim.topology.keys import LinkErrorsConfig, SharedBufferConfig
from netsim.transport.ecmp import Ecmp
from netsim.transport.ethereal import Ethereal
from netsim.transport.spray import SprayRandom
from netsim.workload.tasks import Task, Tasks
from tests.each import each
from tests.netsim.agreement import CONGESTION, DCTCP, PATTERNS, RECOVERY, SELECTIVE, agreed, ran
from tests.netsim.random_scenes import OPTIONS, transport_of
from tests.netsim.scenes import all_to_all, fabric, flow, scene

LANES = {lane: AcknowledgementConfig.model_validate({"lane": lane}) for lane in ("control", "data")}
QUEUES: dict[str, dict[str, Any]] = {
    "pauses": {"flow_control": PfcConfig.model_validate({"kind": "pfc", "pause_above": "9KB", "resume_at": "4KB"})},
    "pauses that follow the memory": {
        "flow_control": PfcConfig.model_validate({"kind": "pfc", "pause_above": "dynamic", "resume_below": "4KB"}),
        "buffer": SharedBufferConfig.model_validate({"kind": "shared", "size": "700KB", "alpha": 0.125}),
    },
    "memory": {"buffer": SharedBufferConfig.model_validate({"kind": "shared", "size": "60KB", "alpha": 0.5})},
    "classes": {"queue_bytes": 24_000},
}
"""Links whose packets wait in queues; with three classes each."""


@each("queues, lane", product(["pauses", "pauses that follow the memory"], LANES))
def test_words_that_stop_queues_take_the_time_of_their_link(queues, lane):
    """They stop hosts and switches; the second lets them go on."""
    what = scene(fabric(4, 2, 2), [flow(src, 0, 600_000) for src in range(1, 8)])._replace(**QUEUES[queues])
    outcome = ran(what._replace(acknowledgement=LANES[lane]), "ecmp")
    paused = outcome.links.paused_ps > 0
    at_host = np.array([link.src.startswith("host") for link in what.topology.links])
    assert paused[at_host].any()
    assert paused[~at_host].any()
    assert outcome.losses.dropped == 0


def test_more_packets_wait_than_there_is_room_for_at_first():
    what = scene(fabric(1, 1, 6), [flow(src, 0, 1_500_000) for src in range(1, 6)])
    ran(in_classes(what), "ecmp")


@each("kind, lane", product(["receiver_credit", "ndp"], LANES))
def test_receivers_that_ask_for_packets(kind, lane):
    """Several times in a window, and of several senders in turn; a receiver starts a message in the window."""
    tasks = [*all_to_all(8, 90_000), *(flow(src, 0, 60_000) for src in range(1, 8)), Task(0, 5, 50_000, 0, (3,))]
    what = scene(fabric(4, 2, 2), tasks)._replace(queue_bytes=20_000, congestion=CONGESTION[kind], recovery=SELECTIVE)
    outcome = ran(what._replace(acknowledgement=LANES[lane]), "spray_random")
    assert outcome.losses.dropped > 0


@each("retry", ["link", "none"])
def test_links_with_errors(retry):
    errors = LinkErrorsConfig.model_validate({"rate": 0.05, "retry": retry})
    what = scene(fabric(4, 2, 2), PATTERNS["all_to_all"])._replace(link_errors=errors, recovery=SELECTIVE)
    assert (ran(what, "drb").losses.dropped > 0) == (retry == "none")


def in_classes(what: Scene) -> Scene:
    """The scene with its messages in three classes."""
    tasks = [task._replace(traffic_class=number % 3) for number, task in enumerate(what.tasks)]
    return what._replace(tasks=Tasks(tasks), classes=3)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["all_to_all", "incast", "ring"])
@pytest.mark.parametrize("transport", OPTIONS)
def test_everything_together(transport: str, pattern: str):
    """A spine that fails for a while; full queues, or messages in three classes, also on several threads."""
    failure = {"switch": "spine1", "at": "3us", "until": "40us", "noticed_after": "10us"}
    what = scene(fabric(4, 3, 2), PATTERNS[pattern], failures=[FailureConfig.model_validate(failure)])
    for queues, congestion, recovery, lane in product([None, *QUEUES], CONGESTION, RECOVERY, LANES.values()):
        found = in_classes(what)._replace(**QUEUES[queues]) if queues else what._replace(queue_bytes=24_000)
        found = found._replace(congestion=CONGESTION[congestion], recovery=RECOVERY[recovery], acknowledgement=lane)
        ran(found, transport, also=["2", "3"] if transport != "adaptive_flow" and recovery == "selective" else [])


@each("lane", LANES)
def test_tasks_that_begin_within_a_window(lane):
    """Messages inside hosts take less than a window; barriers of all ranks join hosts and start them."""
    topology = fabric(2, 2, 2, ranks_per_host=2, intra_host_rate="3200Gbps")
    ranks, tasks = range(8), [Task(rank, rank ^ 1, 3000, 7000 * rank, ()) for rank in range(8)]
    for step in range(3):
        last = tuple(range(len(tasks) - 8, len(tasks)))
        barrier = len(tasks)
        tasks.append(Task(0, 0, 0, 1000 * step, last))
        tasks += [Task(rank, rank ^ 1, 500, 3 * rank, (barrier,)) for rank in ranks]
        inside = len(tasks) - 8
        tasks += [Task(rank, (rank + 3) % 8, 9000, rank % 2, (inside + (rank + 5) % 8,)) for rank in ranks]
    what = scene(topology, tasks)._replace(congestion=DCTCP, acknowledgement=LANES[lane])
    assert len(set(ran(what, "spray_random").task_end_ps.tolist())) > 20


@each("seed, scheduling", product(range(4), ["round_robin", "sequential"]))
def test_flows_that_join_and_leave_inside_hosts(seed, scheduling):
    """Of one packet and of many, also in the instant in which another packet leaves: 4 kB take 80,000 ps."""
    random = Random(seed)
    topology = fabric(2, 2, 1, ranks_per_host=6, intra_host_rate="400Gbps")
    tasks = []
    for index in range(60):
        src = random.randrange(12)
        inside = [rank for rank in range(12) if rank // 6 == src // 6 and rank != src]
        dst = (src + 6) % 12 if random.random() < 0.1 else random.choice(inside)
        size = random.choice([1, 4000, 4001, 8000, 36_000, 123_456])
        after = random.sample(range(index), min(index, random.choice([0, 0, 1, 2])))
        tasks.append(Task(src, dst, size, 40_000 * random.randrange(4), tuple(sorted(after))))
    what = scene(topology, tasks, scheduling=scheduling)
    assert ran(what, random.choice(["ecmp", "spray_round_robin", "ethereal"]), seed).packets > 300


def test_more_late_starts_inside_hosts_than_links():
    """All within one window; each is an event of its own at the link inside the host."""
    what = scene(fabric(1, 1, 2, ranks_per_host=2), [flow(0, 1, size) for size in range(1, 2000)])
    agreed(what, lambda: Ethereal(0, what.most_paths, start_delay=100_000))


def test_packets_that_wait_for_longer_than_the_wheel_turns():
    """Windows of a nanosecond, a queue of more nanoseconds than there are buckets, and more packets than at first."""
    what = scene(fabric(2, 1, 4, link_delay="1ns"), [flow(src, 0, 220_000) for src in range(1, 8)])
    outcome = ran(what, "ecmp", also=["2"])
    assert outcome.links.max_queue_ps.max() > 1000 * WINDOWS


def test_a_run_ends_in_the_middle_of_a_window_at_its_limit():
    what = scene(fabric(2, 2, 2), all_to_all(4, 40_000))._replace(congestion=DCTCP)
    for simulated in range(3_000_000, 12_000_000, 1_234_567):
        limited = what._replace(limits=what.limits.model_copy(update={"simulated": simulated}))
        agreed(limited, lambda paths=limited.most_paths: Ecmp(0, paths))


@each("size, instants", product([0, 1, 2, 15, 16, 17, 33, 100, 1000, 3000], [1, 9, 10**6]))
def test_arrivals_are_sorted_by_time_and_key(size, instants):
    draw = np.random.default_rng(size)
    arrivals = np.zeros(size + 8, dtype=record("Arrival"))
    arrivals["time_ps"], arrivals["key"] = draw.integers(0, instants, size + 8), draw.permutation(size + 8)
    arrivals["place"] = np.arange(size + 8)
    before = arrivals.copy()
    places = np.zeros(number("PLACES"), dtype=np.int64)
    _core.sort_arrivals(arrivals, arrivals.copy(), places, 4, 4 + size, instants)
    rows = [4 + row for row in np.lexsort((before["key"][4 : 4 + size], before["time_ps"][4 : 4 + size]))]
    assert arrivals["place"].tolist() == [*range(4), *rows, *range(4 + size, size + 8)]


def test_a_run_of_nothing_but_background_traffic_is_refused():
    background = Task(0, 1, 4000, 0, (), background=True)
    what = scene(fabric(2, 2, 1), [])
    over, lasts = (what._replace(tasks=Tasks([Task(0, 1, 0, delay_ps, ()), background])) for delay_ps in (0, 1))
    assert "over as it begins" in str(refusal(over, Ecmp(0, 2)))
    assert refusal(lasts, Ecmp(0, 2)) is None


def test_refuses_what_it_does_not_simulate():
    what = scene(fabric(2, 2, 1), [flow(0, 1, 1)])
    assert refusal(what, Ecmp(0, 2)) is None
    departure = NsccConfig(kind="nscc", marks="departure")
    assert "marked as they leave" in str(refusal(what._replace(congestion=departure), Ecmp(0, 2)))
    without_delay = scene(fabric(2, 2, 1, link_delay="0ns"), [flow(0, 1, 1)])
    assert "link host0" in str(refusal(without_delay, Ecmp(0, 2)))
    assert [fills_windows(scene(fabric(2, 2, 1, link_delay=delay), [])) for delay in ("0ns", "50ns", "500ns")] == [
        False,
        False,
        True,
    ]


@each("queues, lane", product(QUEUES, LANES))
def test_links_with_queues(queues, lane):
    what = scene(fabric(4, 2, 2), [flow(src, 0, 300_000) for src in range(1, 8)])._replace(**QUEUES[queues])
    answers = LANES[lane]
    ran(what._replace(acknowledgement=answers, recovery=SELECTIVE), "drill", also=["2"])


@each("transport", ["ecmp", "jsq"])
def test_switches_inside_hosts_lie_in_regions_of_switches(transport, monkeypatch):
    """Also with one thread, where a fabric has many links."""
    monkeypatch.setattr("netsim.engine.windowed.engine.LINKS_OF_REGION", 2)
    topology = fabric(2, 2, 2, adapters_per_host=2, ranks_per_host=2, gpu_link_rate="400Gbps")
    gpus = range(topology.hosts // 2, topology.hosts)
    tasks = [*all_to_all(topology.hosts // 2, 30_000), *(flow(src, src ^ 1, 70_000) for src in gpus)]
    for threads in (1, 2):
        ran(scene(topology, tasks)._replace(congestion=DCTCP), transport, also=[str(threads)])


def test_tasks_begin_at_hosts_of_other_threads_in_the_middle_of_a_window():
    """Each message waits for one inside its host, and for one that has come to its host from another leaf."""
    hosts, tasks = 8, []
    for turn in range(6):
        for host in range(hosts):
            inside, came = 2 * hosts * (turn - 1) + 2 * host, 2 * hosts * (turn - 1) + 2 * ((host - 3) % hosts) + 1
            tasks.append(Task(host, host, 5_000, 0, (came,) if turn else ()))
            tasks.append(Task(host, (host + 3) % hosts, 9_000, 0, (inside, came) if turn else ()))
    outcome = ran(scene(fabric(4, 2, 2), tasks)._replace(congestion=DCTCP, recovery=SELECTIVE), "reps", also=["2"])
    assert len(outcome.flows) == len(tasks)


def test_more_threads_than_leaves():
    ran(scene(fabric(2, 2, 2), all_to_all(4, 50_000))._replace(congestion=DCTCP), "spray_random", also=["5"])


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
