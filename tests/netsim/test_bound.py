"""The lower bound: where it is exact, and that nothing beats it."""

from itertools import product

from netsim.collective.protocol import Operation
from netsim.foundation.units import split_bytes
from netsim.simulation.bound import Bound
from netsim.workload.tasks import Task
from tests.each import each
from tests.netsim.plain_schedules import ring_all_reduce
from tests.netsim.random_scenes import odd_scene
from tests.netsim.scenes import TRANSPORTS, all_to_all, fabric, flow, scene, simulate

SERVICE, DELAY = 320_000, 500_000


def ring_tasks(size: int, total: int) -> list[Task]:
    """A ring all-reduce of hosts in order."""
    messages = ring_all_reduce(Operation("all_reduce", size, blocks=tuple(split_bytes(total, size))))
    return [Task(m.src, m.dst, m.bytes, 0, m.after) for m in messages]


@each("packets, transport", product([1, 4], TRANSPORTS))
def test_all_to_all_whose_last_packets_leave_the_leaf(packets, transport):
    """((H-1) P + 3) services and 4 delays."""
    what = scene(fabric(4, 4, 4), all_to_all(16, 4 * packets * 4000))
    outcome = simulate(what, transport)
    expected = (15 * 4 * packets + 3) * SERVICE + 4 * DELAY
    assert Bound(what).of_run(outcome.last_sent) == expected
    assert outcome.completion_ps >= expected


@each("transport", ["ecmp", "ethereal"])
def test_a_ring_takes_exactly_its_closed_form(transport):
    """2 (p-1) rounds of one message through k links of which the longest route, between leaves, counts."""
    size, packets = 8, 3
    what = scene(fabric(4, 3, 2), ring_tasks(size, size * packets * 4000))
    rounds = 2 * (size - 1)
    outcome = simulate(what, transport)
    assert Bound(what).of_run(outcome.last_sent) == outcome.completion_ps
    between, inside = 4 * DELAY + (packets + 3) * SERVICE, 2 * DELAY + (packets + 1) * SERVICE
    # A chain of messages goes around the ring, every second hop inside a leaf.
    assert outcome.completion_ps == rounds // 2 * (between + inside)


def test_incast_counts_the_receivers_link():
    what = scene(fabric(4, 4, 1), [flow(src, 0, 16 * 4000) for src in (1, 2, 3)])
    assert Bound(what).ps == (48 + 3) * SERVICE + 4 * DELAY


@each("size", [4000, 4100, 9000, 40_100, 1_000_001])
def test_a_message_alone_whose_last_packet_is_short_takes_exactly_its_bound(size):
    """On one path the short packet follows the full ones through every link."""
    what = scene(fabric(2, 1, 1), [flow(0, 1, size)])
    outcome = simulate(what, "ecmp")
    assert outcome.completion_ps - Bound(what, shares=False).of_run(outcome.last_sent) <= (size < 16_000) * 3 * SERVICE
    spread = scene(fabric(2, 4, 1), [flow(0, 1, size)])
    for transport in TRANSPORTS:
        found = simulate(spread, transport)
        bound = Bound(spread, shares=transport == "ethereal").of_run(found.last_sent)
        assert bound <= found.completion_ps


def test_few_spines_count():
    what = scene(fabric(2, 1, 4), [flow(src, 4 + src, 400_000) for src in range(4)])
    assert Bound(what).ps == 4 * 100 * SERVICE


def test_a_chain_counts_gaps_and_messages():
    tasks = [Task(0, 0, 0, 9000, ()), Task(0, 1, 4000, 0, (0,)), Task(1, 0, 8000, 500, (1,))]
    what = scene(fabric(1, 1, 2), tasks)
    assert Bound(what).ps == 9500 + (2 * DELAY + 2 * SERVICE) + (2 * DELAY + 3 * SERVICE)


@each("transport, seed", product(TRANSPORTS, range(40)))
def test_no_run_beats_it(transport, seed):
    what = odd_scene(seed)
    outcome = simulate(what, transport, seed)
    assert Bound(what).of_run(outcome.last_sent) <= outcome.completion_ps
