"""The windowed engine simulates what the reference engine simulates, to the last bit."""

from random import Random

import numpy as np
import pytest

from netsim.congestion.flow_control import AcknowledgementConfig, PfcConfig
from netsim.engine import _core
from netsim.engine.core.shared import number, record
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.engine.windowed import regions
from netsim.engine.windowed.engine import WindowedEngine
from netsim.engine.windowed.refusal import fills_windows, refusal
from netsim.engine.windowed.wheel_layout import WINDOWS
from netsim.foundation.refusal import Refusal
from netsim.topology.failure import FailureConfig
from netsim.topology.keys import LinkErrorsConfig, SharedBufferConfig
from netsim.transport.ecmp import Ecmp
from netsim.transport.ethereal import Ethereal
from netsim.workload.tasks import Task, Tasks
from tests.netsim.random_scenes import (
    OPTIONS,
    has_paths,
    random_scene,
    transport_of,
    with_background,
    with_errors,
    with_queues,
)
from tests.netsim.scenes import all_to_all, fabric, flow, scene
from tests.netsim.test_event_engine import CONGESTION, DCTCP, PATTERNS, RECOVERY, SELECTIVE

LANES = ["control", "data"]
QUEUES = {
    "pauses": {"flow_control": PfcConfig.model_validate({"kind": "pfc", "pause_above": "9KB", "resume_at": "4KB"})},
    "pauses that follow the memory": {
        "flow_control": PfcConfig.model_validate({"kind": "pfc", "pause_above": "dynamic", "resume_below": "4KB"}),
        "buffer": SharedBufferConfig.model_validate({"kind": "shared", "size": "700KB", "alpha": 0.125}),
    },
    "memory": {"buffer": SharedBufferConfig.model_validate({"kind": "shared", "size": "60KB", "alpha": 0.5})},
    "classes": {"queue_bytes": 24_000},
}
"""Links whose packets wait in queues; with three classes each."""


def both(what: Scene, transport: str, seed: int = 0) -> Outcome:
    """The run of either engine, which is the same."""
    make = transport_of(transport, Random(seed), seed, what.most_paths)
    assert refusal(what, make()) is None
    expected = ReferenceEngine(what, make(), seed).run()
    found = WindowedEngine(what, make(), seed).run()
    assert found.equals(expected)
    return found


def end_of(engine: ReferenceEngine | WindowedEngine) -> Outcome | str:
    """What a run was, or why it never ends."""
    try:
        return engine.run()
    except Refusal as error:
        return str(error)


@pytest.mark.parametrize("transport", OPTIONS)
def test_drops_and_what_goes_again(transport):
    what = scene(fabric(4, 2, 1), [flow(src, 0, 60_000) for src in range(1, 4)])
    lossy = what._replace(congestion=CONGESTION["none"], recovery=SELECTIVE, queue_bytes=16_000)
    outcome = both(lossy, transport)
    assert outcome.losses.dropped > 0
    assert outcome.losses.retransmitted > 0


@pytest.mark.parametrize("seed", range(24))
def test_random_scenes(seed, monkeypatch):
    """Half of them in as many regions as switches and hosts can fill."""
    if seed % 2:
        monkeypatch.setattr(regions, "LINKS_OF_REGION", 2)
    random = Random(seed)
    while True:
        what = random_scene(random)
        make = transport_of([*OPTIONS][seed % len(OPTIONS)], random, seed, what.most_paths)
        if refusal(what, make()) is None:
            break
    expected, found = (end_of(engine(what, make(), seed)) for engine in (ReferenceEngine, WindowedEngine))
    assert found.equals(expected) if isinstance(expected, Outcome) and isinstance(found, Outcome) else found == expected


@pytest.mark.parametrize("seed", range(24))
def test_random_scenes_with_queues(seed, monkeypatch):
    if seed % 2:
        monkeypatch.setattr(regions, "LINKS_OF_REGION", 2)
    random = Random(seed)
    while True:
        what = with_queues(random, random_scene(random))
        what = with_errors(random, what) if seed % 4 == 3 else what
        make = transport_of([*OPTIONS][seed % len(OPTIONS)], random, seed, what.most_paths)
        if refusal(what, make()) is None:
            break
    expected, found = (end_of(engine(what, make(), seed)) for engine in (ReferenceEngine, WindowedEngine))
    assert found.equals(expected) if isinstance(expected, Outcome) and isinstance(found, Outcome) else found == expected


@pytest.mark.parametrize("seed", range(24))
def test_the_end_in_the_middle_of_a_window_while_background_traffic_goes_on(seed, monkeypatch):
    if seed % 4 == 2:
        monkeypatch.setattr(regions, "LINKS_OF_REGION", 2)
    random = Random(seed)
    while True:
        what = with_background(random, random_scene(random))
        what = with_queues(random, what) if seed % 2 else what
        make = transport_of([*OPTIONS][seed % len(OPTIONS)], random, seed, what.most_paths)
        if has_paths(what) and refusal(what, make()) is None:
            break
    expected, found = (end_of(engine(what, make(), seed)) for engine in (ReferenceEngine, WindowedEngine))
    assert found.equals(expected) if isinstance(expected, Outcome) and isinstance(found, Outcome) else found == expected


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("queues", ["pauses", "pauses that follow the memory"])
def test_words_that_stop_queues_take_the_time_of_their_link(queues, lane):
    """They stop hosts and switches; the second lets them go on."""
    what = scene(fabric(4, 2, 2), [flow(src, 0, 600_000) for src in range(1, 8)])._replace(**QUEUES[queues])
    outcome = both(what._replace(acknowledgement=AcknowledgementConfig.model_validate({"lane": lane})), "ecmp")
    paused = outcome.links.paused_ps > 0
    at_host = np.array([link.src.startswith("host") for link in what.topology.links])
    assert paused[at_host].any()
    assert paused[~at_host].any()
    assert outcome.losses.dropped == 0


def test_more_packets_wait_than_there_is_room_for_at_first():
    what = scene(fabric(1, 1, 6), [flow(src, 0, 1_500_000) for src in range(1, 6)])
    both(_in_classes(what), "ecmp")


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("kind", ["receiver_credit", "ndp"])
def test_receivers_that_ask_for_packets(kind, lane):
    """Several times in a window, and of several senders in turn; a receiver starts a message in the window."""
    tasks = [*all_to_all(8, 90_000), *(flow(src, 0, 60_000) for src in range(1, 8)), Task(0, 5, 50_000, 0, (3,))]
    what = scene(fabric(4, 2, 2), tasks)._replace(queue_bytes=20_000, congestion=CONGESTION[kind], recovery=SELECTIVE)
    outcome = both(what._replace(acknowledgement=AcknowledgementConfig.model_validate({"lane": lane})), "spray_random")
    assert outcome.losses.dropped > 0


@pytest.mark.parametrize("retry", ["link", "none"])
def test_links_with_errors(retry):
    errors = LinkErrorsConfig.model_validate({"rate": 0.05, "retry": retry})
    what = scene(fabric(4, 2, 2), PATTERNS["all_to_all"])._replace(link_errors=errors, recovery=SELECTIVE)
    assert (both(what, "drb").losses.dropped > 0) == (retry == "none")


@pytest.mark.parametrize("transport", ["ecmp", "jsq"])
def test_links_of_gpus(transport):
    """Switches inside hosts are units of their own, of which nothing limits the queues."""
    topology = fabric(2, 2, 2, adapters_per_host=2, ranks_per_host=2, gpu_link_rate="400Gbps")
    inside = range(topology.hosts // 2, topology.hosts)
    tasks = [*all_to_all(topology.hosts // 2, 30_000), *(flow(src, src ^ 1, 70_000) for src in inside)]
    both(scene(topology, tasks)._replace(congestion=DCTCP), transport)


def _in_classes(what: Scene) -> Scene:
    """The scene with its messages in three classes."""
    tasks = [task._replace(traffic_class=number % 3) for number, task in enumerate(what.tasks)]
    return what._replace(tasks=Tasks(tasks), classes=3)


@pytest.mark.slow
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("queues", QUEUES)
@pytest.mark.parametrize("recovery", RECOVERY)
@pytest.mark.parametrize("congestion", CONGESTION)
@pytest.mark.parametrize("pattern", ["all_to_all", "incast", "ring"])
@pytest.mark.parametrize("transport", OPTIONS)
def test_all_kinds_of_queues(transport, pattern, congestion, recovery, queues, lane):
    """In three classes, with a spine that fails for a while."""
    failure = {"switch": "spine1", "at": "3us", "until": "40us", "noticed_after": "10us"}
    what = _in_classes(
        scene(fabric(4, 3, 2), PATTERNS[pattern], failures=[FailureConfig.model_validate(failure)])
    )._replace(**QUEUES[queues])
    both(
        what._replace(
            congestion=CONGESTION[congestion],
            recovery=RECOVERY[recovery],
            acknowledgement=AcknowledgementConfig.model_validate({"lane": lane}),
        ),
        transport,
    )


@pytest.mark.slow
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("recovery", RECOVERY)
@pytest.mark.parametrize("congestion", CONGESTION)
@pytest.mark.parametrize("pattern", ["all_to_all", "incast", "ring"])
@pytest.mark.parametrize("transport", OPTIONS)
def test_everything_together(transport, pattern, congestion, recovery, lane):
    """Full queues, and a spine that fails for a while."""
    failure = {"switch": "spine1", "at": "3us", "until": "40us", "noticed_after": "10us"}
    what = scene(fabric(4, 3, 2), PATTERNS[pattern], failures=[FailureConfig.model_validate(failure)])
    both(
        what._replace(
            queue_bytes=24_000,
            congestion=CONGESTION[congestion],
            recovery=RECOVERY[recovery],
            acknowledgement=AcknowledgementConfig.model_validate({"lane": lane}),
        ),
        transport,
    )


@pytest.mark.parametrize("lane", LANES)
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
    what = scene(topology, tasks)._replace(
        congestion=DCTCP, acknowledgement=AcknowledgementConfig.model_validate({"lane": lane})
    )
    assert len(set(both(what, "spray_random").task_end_ps.tolist())) > 20


@pytest.mark.parametrize("scheduling", ["round_robin", "sequential"])
@pytest.mark.parametrize("seed", range(4))
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
    assert both(what, random.choice(["ecmp", "spray_round_robin", "ethereal"]), seed).packets > 300


def test_more_late_starts_inside_hosts_than_links():
    """All within one window; each is an event of its own at the link inside the host."""
    what = scene(fabric(1, 1, 2, ranks_per_host=2), [flow(0, 1, size) for size in range(1, 2000)])
    make = lambda: Ethereal(0, what.most_paths, start_delay=100_000)  # noqa: E731
    expected, found = (engine(what, make(), 0).run() for engine in (ReferenceEngine, WindowedEngine))
    assert found.equals(expected)


def test_packets_that_wait_for_longer_than_the_wheel_turns():
    """Windows of a nanosecond, a queue of more nanoseconds than there are buckets, and more packets than at first."""
    what = scene(fabric(2, 1, 4, link_delay="1ns"), [flow(src, 0, 220_000) for src in range(1, 8)])
    outcome = both(what, "ecmp")
    assert outcome.links.max_queue_ps.max() > 1000 * WINDOWS


def test_a_run_ends_in_the_middle_of_a_window_at_its_limit():
    what = scene(fabric(2, 2, 2), all_to_all(4, 40_000))._replace(congestion=DCTCP)
    for simulated in range(3_000_000, 12_000_000, 1_234_567):
        limited = what._replace(limits=what.limits.model_copy(update={"simulated": simulated}))
        expected, found = (
            end_of(engine(limited, Ecmp(0, limited.most_paths), 0)) for engine in (ReferenceEngine, WindowedEngine)
        )
        assert (
            found.equals(expected)
            if isinstance(expected, Outcome) and isinstance(found, Outcome)
            else found == expected
        )


@pytest.mark.parametrize("first", range(4))
def test_the_flow_that_first_loses_its_patience_is_named(first):
    """One host begins 100 ns before the others, which are in the same window when it gives up."""
    failures = [
        FailureConfig.model_validate({"switch": f"spine{spine}", "at": "10us", "until": "10ms"}) for spine in (0, 1)
    ]
    tasks = [task._replace(delay_ps=0 if task.src == first else 100_000) for task in all_to_all(4, 90_000)]
    what = scene(fabric(2, 2, 2), [*tasks, flow(0, 1, 1_000_000)], failures=failures)._replace(recovery=SELECTIVE)
    limited = what._replace(limits=what.limits.model_copy(update={"fruitless": 5}))
    expected, found = (
        end_of(engine(limited, Ecmp(0, limited.most_paths), 0)) for engine in (ReferenceEngine, WindowedEngine)
    )
    assert "after 5 timeouts" in str(expected)
    assert found == expected


@pytest.mark.parametrize("instants", [1, 9, 10**6])
@pytest.mark.parametrize("size", [0, 1, 2, 15, 16, 17, 33, 100, 1000, 3000])
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
    without_delay = scene(fabric(2, 2, 1, link_delay="0ns"), [flow(0, 1, 1)])
    assert "link host0" in str(refusal(without_delay, Ecmp(0, 2)))
    assert [fills_windows(scene(fabric(2, 2, 1, link_delay=delay), [])) for delay in ("0ns", "50ns", "500ns")] == [
        False,
        False,
        True,
    ]
