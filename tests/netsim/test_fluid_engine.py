"""The flow-level engine against closed forms, a simulation in fractions, and bounds."""

import random
from fractions import Fraction

import numpy as np
import pytest

from netsim.engine.fluid.engine import FluidEngine
from netsim.engine.fluid.streaming import stream
from netsim.engine.protocol import Outcome, Scene
from netsim.workload.tasks import Task
from tests.each import each
from tests.netsim.scenes import all_to_all, fabric, flow, scene
from tests.netsim.test_fluid_rates import Routes, water_filling

SERVICE, DELAY = 320_000, 500_000


@each("packets", [1, 16])
@each("dst, links", [(1, 2), (2, 4)])
def test_one_message_takes_its_store_and_forward_time(packets, dst, links):
    outcome = FluidEngine(scene(fabric(2, 3, 2), [flow(0, dst, 4000 * packets)])).run()
    assert outcome.completion_ps == links * DELAY + (packets + links - 1) * SERVICE


def test_all_to_all_takes_exactly_the_lower_bound():
    outcome = FluidEngine(scene(fabric(4, 4, 4), all_to_all(16, 8 * 4000))).run()
    assert outcome.completion_ps == (15 * 8 + 3) * SERVICE + 4 * DELAY
    assert {record.bytes for record in outcome.links[32:-16]} == {4 * 12 * 8 * 4000 // 4}


def test_half_the_spines_take_the_time_of_their_load():
    """Uplinks of a leaf then carry h (H - h) messages over s links, more than any host's link."""
    hosts, per_leaf, spines, size = 16, 4, 2, 32_000
    outcome = FluidEngine(scene(fabric(4, spines, per_leaf), all_to_all(hosts, size))).run()
    uplink_ps = per_leaf * (hosts - per_leaf) * size // spines * 80
    assert outcome.completion_ps == pytest.approx(uplink_ps + 4 * DELAY + 3 * SERVICE, abs=4)


def test_a_short_message_leaves_its_share_to_the_long_one():
    """Two messages share a host's link until the short one ends; then the long one has it alone."""
    what = scene(fabric(1, 1, 3), [flow(0, 1, 100 * 4000), flow(0, 2, 10 * 4000)])
    outcome = FluidEngine(what).run()
    tail = 2 * DELAY + SERVICE
    assert [record.end_ps for record in outcome.flows] == [110 * SERVICE + tail, 20 * SERVICE + tail]


def test_tasks_wait_for_each_other_and_for_their_delay():
    tasks = [Task(0, 1, 4000, 0, ()), Task(1, 1, 0, 5000, (0,)), Task(1, 0, 4000, 700, (1,)), Task(0, 0, 0, 0, (2,))]
    one_route = 2 * DELAY + 2 * SERVICE
    outcome = FluidEngine(scene(fabric(1, 1, 2), tasks)).run()
    assert list(outcome.task_end_ps) == [one_route, one_route + 5000, 2 * one_route + 5700, 2 * one_route + 5700]


def in_fractions(what: Scene) -> list[Fraction]:
    """When each message of an ideal run is there, in exact arithmetic and without rounding to picoseconds."""
    routes: list[Routes] = []
    tail: list[int] = []
    for task in what.tasks:
        src, dst = what.hosts[task.src], what.hosts[task.dst]
        paths = what.routes.paths(src, dst)
        routes.append(paths)
        links = [what.topology.links[link] for link in paths[0]]
        last = (task.bytes - 1) % what.packet.payload + 1
        tail.append(sum(link.delay_ps for link in links) + sum(last * 80 for _ in links[1:]))
    capacity = [Fraction(link.rate_bps, 8 * 10**12) for link in what.topology.links]
    left = {index: Fraction(task.bytes) for index, task in enumerate(what.tasks)}
    end: dict[int, Fraction] = {}
    now = Fraction(0)
    while left:
        begun: dict[int, Fraction] = {}
        for index in left:
            task = what.tasks[index]
            if all(earlier in end for earlier in task.after):
                begun[index] = max([end[earlier] for earlier in task.after], default=Fraction(0)) + task.delay_ps
        active = [index for index, start in begun.items() if start <= now]
        rates = water_filling([routes[index] for index in active], capacity)
        ends = [now + left[index] / rate for index, rate in zip(active, rates, strict=True)]
        later = min([*ends, *(start for start in begun.values() if start > now)])
        for index, rate in zip(active, rates, strict=True):
            left[index] -= rate * (later - now)
            if not left[index]:
                del left[index]
                end[index] = later + tail[index]
        now = later
    return [end[index] for index in range(len(what.tasks))]


@each("seed", range(12))
def test_all_times_are_those_of_a_simulation_in_fractions(seed):
    """Messages of any size that start at any time and wait for each other, to a few roundings."""
    draw = random.Random(seed)
    topology = fabric(draw.randint(1, 3), draw.randint(1, 3), draw.randint(2, 3))
    tasks: list[Task] = []
    for index in range(draw.randint(1, 14)):
        src, dst = draw.sample(range(topology.hosts), 2)
        after = tuple(sorted(draw.sample(range(index), min(index, draw.choice([0, 0, 1, 2])))))
        tasks.append(Task(src, dst, draw.randint(1, 200_000), draw.choice([0, draw.randint(1, 10**7)]), after))
    what = scene(topology, tasks)
    expected = [float(time) for time in in_fractions(what)]
    assert FluidEngine(what).run().task_end_ps == pytest.approx(expected, abs=100, rel=0)


def load_ps(what: Scene, outcome: Outcome) -> float:
    """Longest time that a link needs for the bytes it carried."""
    return max(outcome.links["bytes"] * 8e12 / np.array(what.rates.initial))


@each("seed", range(20))
def test_no_run_is_faster_than_its_most_loaded_link(seed):
    draw = random.Random(seed)
    topology = fabric(draw.randint(1, 4), draw.randint(1, 4), draw.randint(1, 4))
    pairs = [(draw.randrange(topology.hosts), draw.randrange(topology.hosts)) for _ in range(30)]
    what = scene(topology, [flow(src, dst, draw.randint(1, 10**6), draw.randint(0, 10**6)) for src, dst in pairs])
    outcome = FluidEngine(what).run()
    assert outcome.completion_ps >= load_ps(what, outcome)


@each("seed", range(20))
def test_more_spines_faster_links_and_fewer_messages_never_raise_the_load(seed):
    draw = random.Random(seed)
    leaves, spines, per_leaf = draw.randint(2, 4), draw.randint(1, 4), draw.randint(1, 4)
    hosts = leaves * per_leaf
    pairs = [draw.sample(range(hosts), 2) for _ in range(20)]
    tasks = [flow(src, dst, draw.randint(1, 10**6)) for src, dst in pairs]

    def load(tasks: list[Task], spines: int = spines, **rates: str) -> float:
        what = scene(fabric(leaves, spines, per_leaf, **rates), tasks)
        return load_ps(what, FluidEngine(what).run())

    most, rounding_ps = load(tasks), 80
    assert load(tasks, spines + 1) <= most + rounding_ps
    assert load(tasks, fabric_rate="200Gbps") <= most + rounding_ps
    assert load(tasks, host_rate="200Gbps", fabric_rate="200Gbps") <= most / 2 + rounding_ps
    assert load(tasks[1:]) <= most + rounding_ps


def test_a_message_in_a_host_shares_its_inner_link():
    what = scene(fabric(1, 1, 1, ranks_per_host=3, intra_host_rate="800Gbps"), [flow(0, 1, 4000), flow(1, 2, 8000)])
    outcome = FluidEngine(what).run()
    assert list(outcome.task_end_ps) == [80_000, 120_000]
    assert outcome.links[what.topology.inside(0)].bytes == 12_000


def test_a_long_chain_of_tasks_without_bytes_is_done_at_once():
    tasks = [Task(0, 0, 0, 0, (index - 1,) if index else ()) for index in range(5000)]
    outcome = FluidEngine(scene(fabric(1, 1, 2), [*tasks, Task(0, 1, 4000, 0, (4999,))])).run()
    assert list(outcome.task_end_ps[-2:]) == [0, 2 * DELAY + 2 * SERVICE]


@each("seed", range(4))
def test_equal_messages_that_start_together_need_one_allocation(seed):
    """Those that end first are the fastest, and when they leave nobody else gets more."""
    draw = random.Random(seed)
    targets = draw.sample(range(36), 36)
    engine = FluidEngine(
        scene(fabric(6, 2, 6), [flow(src, dst, 10**5) for src, dst in enumerate(targets) if src != dst])
    )
    engine.run()
    assert engine.allocations == 1


@each("seconds", [1, 30, 3000])
def test_flows_after_a_long_computation_take_as_long_as_at_once(seconds):
    """Times of flows are fractions: far from 0 a picosecond is less than what they resolve."""
    tasks = [flow(0, 4, 4000 * 3), flow(1, 4, 4000 * 7), flow(2, 5, 4000 * 5)]
    later = [task._replace(delay_ps=seconds * 10**12) for task in tasks]
    at_once, *after = (
        run(scene(fabric(2, 3, 3), these)) for run, these in ((_stepped, tasks), (_stepped, later), (_streamed, later))
    )
    for outcome in after:
        assert outcome.completion_ps - seconds * 10**12 == pytest.approx(at_once.completion_ps, abs=1 + seconds)


def _stepped(what: Scene) -> Outcome:
    return FluidEngine(what).run()


def _streamed(what: Scene) -> Outcome:
    return stream(what, None)
