"""Classes that take turns by weights: closed forms of deficit round robin, by three engines to the picosecond."""

from fractions import Fraction

from netsim.engine.event.engine import EventEngine
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.nic import Turns
from netsim.engine.windowed.engine import WindowedEngine
from netsim.workload.tasks import Task
from tests.each import each
from tests.netsim.closed_loop import WatchedEngine, transport_of
from tests.netsim.scenes import fabric, scene

PACKET, SERVICE, DELAY = 4000, 320_000, 500_000  # bytes; ps at 100 Gbps; ps


def run(what: Scene) -> Outcome:
    """The run of each engine, which is the same."""
    expected = WatchedEngine(what).run()
    assert EventEngine(what, transport_of("ecmp", what), 0).run().equals(expected)
    assert WindowedEngine(what, transport_of("ecmp", what), 0).run().equals(expected)
    return expected


def shares(weights: tuple[int, ...], sizes: tuple[int, ...], *, one_host: bool) -> None:
    """Messages of each class, 300 kB in all, go through one link, in packets of one size a class.

    While all have packets, each class gets its share of the bytes, to a quantum: so when the first class has ended,
    and no class has sent all before, the others have sent theirs. The link is never idle.
    """
    total, senders = 300_000, 1 if one_host else len(weights)
    topology = fabric(1, 1, senders + 1, fabric_rate="400Gbps")
    tasks = [
        Task(number % senders, senders, size, 0, (), number)
        for number, size in enumerate(sizes)
        for _ in range(total // size)
    ]
    what = scene(topology, tasks)._replace(classes=len(weights), weights=weights)
    outcome = run(what)
    ends = [
        max(end for task, end in zip(tasks, outcome.task_end_ps, strict=True) if task.traffic_class == number)
        for number in range(len(weights))
    ]
    hops = 1 if one_host else 2
    rest = DELAY * 2 + SERVICE
    byte_ps = Fraction(SERVICE, PACKET)
    assert abs(max(ends) - len(weights) * total * byte_ps - rest) <= hops * SERVICE
    heaviest = weights.index(max(weights))
    sent = sum(Fraction(weight, max(weights)) * total for weight in weights)
    quantum = sum(weights) * PACKET + len(weights) * PACKET
    assert abs(ends[heaviest] - sent * byte_ps - rest) <= quantum * byte_ps


@each("one_host", [False, True])
@each(
    "weights, sizes",
    [
        ((1, 1), (4000, 4000)),
        ((3, 1), (4000, 4000)),
        ((1, 2), (4000, 1000)),
        ((1, 1), (1000, 4000)),
        ((2, 5, 1), (4000,) * 3),
    ],
)
def test_classes_with_packets_share_a_link_by_their_weights_within_a_quantum(weights, sizes, one_host):
    shares(weights, sizes, one_host=one_host)


def test_a_class_without_weight_goes_before_those_that_take_turns():
    """Of three classes at one host, the first is done as if it were alone, one packet aside."""
    topology = fabric(1, 1, 4)
    tasks = [Task(0, 1, 20 * PACKET, 100, (), 0), *(Task(0, dst, 20 * PACKET, 0, (), dst - 1) for dst in (2, 3))]
    outcome = run(scene(topology, tasks)._replace(classes=3, weights=(0, 1, 1)))
    assert outcome.task_end_ps[0] == SERVICE + 20 * SERVICE + SERVICE + 2 * DELAY
    assert outcome.completion_ps == 60 * SERVICE + SERVICE + 2 * DELAY


def test_what_is_left_of_a_turn_serves_the_next_one():
    """By hand: a quantum of 500 B each; packets of 200 B against packets of 750 B."""
    turns, order = Turns([500, 500]), []
    for _ in range(11):
        chosen = turns.next([200, 750])
        assert chosen is not None
        order.append(chosen)
        turns.sent(chosen, (200, 750)[chosen], more=True)
    assert order == [0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0]


def test_an_idle_or_paused_class_saves_nothing_for_later():
    turns = Turns([1000, 1000])
    for _ in range(7):
        assert turns.next([1000, None]) == 0
        turns.sent(0, 1000, more=True)
    sent = [turns.next([1000, 1000]) for _ in range(1)]
    assert sent == [1]
    turns.sent(1, 1000, more=True)
    assert turns.next([1000, 1000]) == 0
