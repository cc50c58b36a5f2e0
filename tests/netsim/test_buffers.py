"""Memory that queues share, and classes of traffic: closed forms, properties, and two engines that agree."""

from random import Random

from netsim.congestion.flow_control import PfcConfig
from netsim.engine.event.engine import EventEngine
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.conditions import Buffers
from netsim.topology.keys import SharedBufferConfig
from netsim.transport.ecmp import Ecmp
from netsim.workload.tasks import Task, Tasks
from tests.each import each
from tests.netsim.closed_loop import (
    PACKET_TRANSPORTS,
    SeeingEngine,
    WatchedEngine,
    controlled,
    random_traffic,
    run,
    transport_of,
)
from tests.netsim.scenes import fabric, flow, scene

PACKET, SERVICE, DELAY = 4000, 320_000, 500_000
REPEATS = {"kind": "selective", "timeout": "100us"}
DYNAMIC = {"kind": "pfc", "pause_above": "dynamic", "resume_below": "8KB"}


def shared(what: Scene, size: int, alpha: float = 1.0, **sections) -> Scene:
    """The scene with memory that the queues of a switch share."""
    return controlled(what, **sections)._replace(buffer=SharedBufferConfig(kind="shared", size=f"{size}B", alpha=alpha))  # type: ignore[arg-type]


def with_classes(what: Scene, classes: int, seed: int) -> Scene:
    """The scene with a class drawn for each message."""
    random = Random(seed)
    tasks = [task._replace(traffic_class=random.randrange(classes)) for task in what.tasks]
    return what._replace(tasks=Tasks(tasks), classes=classes)


def in_one_class(what: Scene) -> Scene:
    """The scene without classes."""
    return what._replace(tasks=Tasks(task._replace(traffic_class=0) for task in what.tasks), classes=1)


def both(what: Scene, transport="ecmp", seed: int = 0) -> Outcome:
    """The run of either engine, which is the same."""
    expected = WatchedEngine(what, transport, seed).run()
    assert EventEngine(what, transport_of(transport, what, seed), seed).run().equals(expected)
    return expected


class SharedEngine(SeeingEngine):
    """Notes the lengths of queues, and checks that they add up to what each switch holds."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.longest: dict[int, int] = {}

    def forward(self, packet, link, leaves_ps):
        assert self._links.queued
        buffers: Buffers = self._links.queued._buffers
        by_switch = [0] * len(buffers.used)
        for queue, length in enumerate(buffers.lengths):
            by_switch[buffers._switch[queue // buffers._classes]] += length
            self.longest[queue] = max(self.longest.get(queue, 0), length)
        assert by_switch == buffers.used
        assert all(0 <= used <= buffers._size for used in buffers.used)
        super().forward(packet, link, leaves_ps)


@each("ports, alpha", [(1, 1.0), (2, 1.0), (3, 1.0), (2, 0.5), (3, 2.0), (1, 8.0)])
def test_queues_that_are_always_full_share_the_memory_as_the_closed_form_says(ports, alpha):
    """Each holds alpha * B / (1 + n * alpha), to a packet."""
    size, senders = 200_000, 3
    topology = fabric(1, 1, ports * (senders + 1))
    tasks = [flow(ports + port * senders + k, port, 200 * PACKET) for port in range(ports) for k in range(senders)]
    what = shared(scene(topology, tasks), size, alpha, recovery=REPEATS, congestion={"kind": "window", "window": 200})
    engine = SharedEngine(what, Ecmp(0, 1), 0)
    outcome = engine.run()
    assert outcome.losses.dropped > 0
    expected = alpha * size / (1 + ports * alpha)
    for port in range(ports):
        assert abs(engine.longest[topology.down(port)] - expected) <= 2 * PACKET


def test_one_queue_takes_what_another_leaves():
    """A burst to an idle switch may use half of the memory with alpha = 1, whatever the number of ports."""
    topology = fabric(1, 1, 12)
    tasks = [flow(src, 0, 8 * PACKET) for src in range(1, 12)]
    size = 2 * 60 * PACKET
    assert run(shared(scene(topology, tasks), size, recovery=REPEATS)).losses.dropped > 0
    assert run(shared(scene(topology, tasks), 2 * 88 * PACKET, recovery=REPEATS)).losses.dropped == 0


@each("seed", range(6))
def test_memory_that_never_fills_equals_queues_without_limit(seed):
    what = random_traffic(seed)
    assert run(shared(what, 10**9), "spray_random", seed).equals(run(what, "spray_random", seed))


@each("seed", range(12))
def test_pauses_that_follow_the_memory_lose_nothing(seed):
    draw = Random(seed)
    headroom = 12 * (2 * PACKET + 2 * 40_000)
    what = shared(
        random_traffic(seed),
        headroom + draw.choice([10_000, 30_000, 100_000]),
        draw.choice([0.125, 0.5, 1.0, 4.0]),
        flow_control=DYNAMIC,
        acknowledgement={"lane": draw.choice(["control", "data"])},
    )
    outcome = both(what, PACKET_TRANSPORTS[seed % len(PACKET_TRANSPORTS)], seed)
    assert outcome.losses.dropped == outcome.losses.retransmitted == 0


def test_pauses_that_follow_the_memory_pause():
    topology = fabric(1, 1, 6)
    tasks = [flow(src, 5, 60 * PACKET) for src in range(5)]
    assert PfcConfig.model_validate(DYNAMIC).dynamic
    headroom = 6 * (12_500 + 2 * PACKET)
    outcome = both(shared(scene(topology, tasks), headroom + 100_000, flow_control=DYNAMIC))
    assert (outcome.links["paused_ps"][:5] > 0).all()
    assert outcome.completion_ps == run(scene(topology, tasks)).completion_ps


def test_a_packet_of_the_first_class_waits_for_one_packet_at_most():
    """By hand: three hosts send to a fourth; the urgent packet comes while one of ten others is on the last link."""
    topology = fabric(1, 1, 4)
    bulk = [Task(src, 3, 10 * PACKET, 0, (), 1) for src in (0, 1)]
    urgent = Task(2, 3, PACKET, 4 * SERVICE + 100, (), 0)
    what = scene(topology, [*bulk, urgent])._replace(classes=2)
    outcome = both(what)
    comes_ps = 4 * SERVICE + 100 + SERVICE + DELAY
    first_ps = SERVICE + DELAY
    waits_ps = -(comes_ps - first_ps) % SERVICE
    assert outcome.task_end_ps[2] == comes_ps + waits_ps + SERVICE + DELAY
    assert outcome.completion_ps == SERVICE + 2 * DELAY + 21 * SERVICE
    assert run(in_one_class(what)).task_end_ps[2] > outcome.task_end_ps[2]


def test_at_a_host_the_first_class_goes_first():
    topology = fabric(1, 1, 3)
    tasks = [Task(0, 1, 20 * PACKET, 0, (), 1), Task(0, 2, 5 * PACKET, 3 * SERVICE + 1, (), 0)]
    outcome = both(scene(topology, tasks)._replace(classes=2))
    assert outcome.task_end_ps[1] == 4 * SERVICE + 5 * SERVICE + SERVICE + 2 * DELAY
    assert outcome.task_end_ps[0] == 25 * SERVICE + SERVICE + 2 * DELAY


@each("seed", range(12))
def test_classes_keep_every_link_as_busy_as_one_class_does(seed):
    """Strict priority delays packets, but loses no time: the same bytes cross the last link of an incast as early."""
    topology = fabric(2, 2, 4)
    what = with_classes(scene(topology, [flow(src, 0, 37 * PACKET) for src in range(4, 8)]), 3, seed)
    outcome, plain = both(what, "spray_random", seed), run(in_one_class(what), "spray_random", seed)
    last = topology.down(0)
    assert outcome.links.bytes[last] == plain.links.bytes[last]
    assert abs(outcome.completion_ps - plain.completion_ps) <= 4 * SERVICE


def test_a_pause_stops_one_class_alone():
    """An incast of the second class pauses its senders; the first class goes on from the same hosts."""
    topology = fabric(1, 1, 5)
    incast = [Task(src, 4, 100 * PACKET, 0, (), 1) for src in range(3)]
    free = Task(0, 3, 40 * PACKET, 100 * SERVICE, (), 0)
    pauses = {"kind": "pfc", "pause_above": "12KB", "resume_at": "8KB"}
    what = controlled(scene(topology, [*incast, free])._replace(classes=2), flow_control=pauses)
    outcome = both(what)
    assert outcome.links["paused_ps"][0] > 0
    assert outcome.task_end_ps[3] <= 100 * SERVICE + 42 * SERVICE + 2 * DELAY
    assert run(in_one_class(what)).task_end_ps[3] > outcome.task_end_ps[3] + 40 * SERVICE
