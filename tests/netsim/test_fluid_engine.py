"""The flow-level engine: max-min rates, the heap of ends, and runs, against closed forms and fractions."""

import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from netsim.engine import _core
from netsim.engine.core.fabric import fabric_arrays
from netsim.engine.fluid.engine import FluidEngine
from netsim.engine.fluid.flows import SegmentArrays, Segments
from netsim.engine.fluid.streaming import Streams, stream, streams_of
from netsim.engine.protocol import Outcome, Scene
from netsim.topology.protocol import Path
from netsim.workload.tasks import Task
from tests.each import each
from tests.netsim.scenes import all_to_all, fabric, flow, scene

Routes = tuple[Path, ...]
"""A flow, by the routes over which it spreads."""


class Instance:
    """Flows over links that have the indices of `capacity`; each flow's first and last links may be shared segments."""

    def __init__(self, flows: Sequence[Routes], capacity: Sequence[Fraction]) -> None:
        self.flows, self.capacity = flows, capacity
        registry = Segments(len(capacity))
        nothing = registry.nothing
        self.segments = np.array([[nothing, registry.index(routes), nothing] for routes in flows], dtype=np.int64)
        self.fabric: SegmentArrays = registry.arrays()
        self.limits = np.array([float(limit) for limit in capacity])
        self.rate = np.zeros(len(flows))

    def fill(self, active: Sequence[int], rising: Sequence[int]) -> np.ndarray:
        """The rates of `active` flows after those of `rising` are settled."""
        which = np.array(active, dtype=np.int64)
        again = np.array(rising, dtype=np.int64)
        _core.fill_rates(which, again, self.segments, self.rate, self.fabric, self.limits)
        return self.rate[which]

    def violations(self, active: Sequence[int]) -> tuple[int, int]:
        which = np.array(active, dtype=np.int64)
        return _core.violations(which, self.segments, self.rate, self.fabric, self.limits)


def shares(routes: Routes) -> dict[int, Fraction]:
    """Share of a flow's rate on each of its links."""
    return {
        link: Fraction(count, len(routes))
        for link, count in Counter(link for route in routes for link in route).items()
    }


def water_filling(flows: Sequence[Routes], capacity: Sequence[Fraction]) -> list[Fraction]:
    """One full link after the other, exactly."""
    share = [shares(routes) for routes in flows]
    rate: dict[int, Fraction] = {}
    while len(rate) < len(flows):
        level: dict[int, Fraction] = {}
        for link, limit in enumerate(capacity):
            demand = sum((s.get(link, Fraction(0)) for f, s in enumerate(share) if f not in rate), Fraction(0))
            used = sum((share[f].get(link, Fraction(0)) * r for f, r in rate.items()), Fraction(0))
            if demand:
                level[link] = (limit - used) / demand
        first = min(level, key=lambda link: level[link])
        rate |= {f: level[first] for f, s in enumerate(share) if f not in rate and first in s}
    return [rate[f] for f in range(len(flows))]


def drawn(seed: int) -> Instance:
    """Up to a dozen links and 20 flows, some spread over several routes, sometimes with a link that is down."""
    draw = random.Random(seed)
    links = draw.randint(1, 12)
    capacity = [Fraction(draw.choice([1, 2, 5, 7, 7, 10, 0 if draw.random() < 0.2 else 3]), 2) for _ in range(links)]
    flows: list[Routes] = []
    for _ in range(draw.randint(1, 20)):
        length = draw.randint(1, min(4, links))
        flows.append(tuple(tuple(draw.sample(range(links), length)) for _ in range(draw.choice([1, 1, 2, 3]))))
    return Instance(flows, capacity)


def test_line_network():
    """One long flow over all links and a short one on each: the long one gets the least of the halves."""
    flows: list[Routes] = [((0, 1, 2),), ((0,),), ((1,),), ((2,),)]
    rates = Instance(flows, [Fraction(10), Fraction(6), Fraction(8)]).fill(range(4), range(4))
    assert rates == pytest.approx([3, 7, 3, 5])


@each("seed", range(60))
def test_water_filling_in_fractions(seed):
    instance = drawn(seed)
    everything = range(len(instance.flows))
    expected = water_filling(instance.flows, instance.capacity)
    assert instance.fill(everything, everything) == pytest.approx([float(rate) for rate in expected], rel=1e-12)


@each("seed", range(60))
def test_every_flow_has_a_full_link_on_which_none_is_faster(seed):
    """The certificate, told here from the definition alone, and by the engine's own check."""
    instance = drawn(100 + seed)
    everything = range(len(instance.flows))
    rates = instance.fill(everything, everything)
    load = np.zeros(len(instance.capacity))
    for routes, rate in zip(instance.flows, rates, strict=True):
        for link, share in shares(routes).items():
            load[link] += float(share) * rate
    assert (load <= instance.limits * (1 + 1e-9)).all()
    for routes, rate in zip(instance.flows, rates, strict=True):
        full = [link for link in shares(routes) if load[link] >= instance.limits[link] * (1 - 1e-9)]
        fastest = [
            max(r for other, r in zip(instance.flows, rates, strict=True) if link in shares(other)) for link in full
        ]
        assert min(fastest, default=np.inf) <= rate * (1 + 1e-9)
    assert instance.violations(everything) == (0, 0)


@each("seed", range(60))
def test_when_flows_leave_only_those_at_least_as_fast_as_the_slowest_of_them_change(seed):
    instance, draw = drawn(200 + seed), random.Random(seed)
    count = len(instance.flows)
    rates = instance.fill(range(count), range(count)).copy()
    leave = draw.sample(range(count), draw.randint(1, count))
    stay = [flow for flow in range(count) if flow not in leave]
    slowest = min(rates[leave])
    again = instance.fill(stay, [flow for flow in stay if rates[flow] >= slowest * (1 - 1e-9)])
    expected = water_filling([instance.flows[flow] for flow in stay], instance.capacity)
    assert again == pytest.approx([float(rate) for rate in expected], rel=1e-12)


@each("factor, wrong", [(1.001, 0), (0.999, 1)])
def test_the_certificate_finds_rates_that_are_too_high_or_too_low(factor, wrong):
    for seed in range(20):
        instance = drawn(300 + seed)
        everything = range(len(instance.flows))
        rates = instance.fill(everything, everything)
        if rates.all():
            instance.rate[random.Random(seed).randrange(len(rates))] *= factor
            assert instance.violations(everything)[wrong] > 0


FLOWS = 200


def no_flows() -> Streams:
    """Streams with room for the flows of a test, none of which is active."""
    what = scene(fabric(2, 2, 1), [])
    arrays = fabric_arrays(what)
    return streams_of(what, arrays, FLOWS, np.ones(len(arrays.usable)))


def ends_of(heap: Streams, active: list[int]) -> dict[int, float]:
    flows = heap.flows[active]
    with np.errstate(divide="ignore"):
        empty_ps = np.where(flows["rate"] > 0, flows["since_ps"] + flows["left"] / flows["rate"], np.inf)
    return dict(zip(active, empty_ps.tolist(), strict=True))


@each("seed", range(8))
def test_the_first_is_that_of_a_search_whatever_rates_change_together(seed):
    rng = np.random.default_rng(seed)
    heap, active, admitted = no_flows(), [], 0
    for now in range(400):
        for _ in range(min(rng.integers(4), FLOWS - admitted)):
            heap.flows["left"][admitted], heap.flows["since_ps"][admitted] = rng.integers(1, 50), now
            _core.add_end(tuple(heap), admitted)
            active.append(admitted)
            admitted += 1
        if not active:
            continue
        changed = rng.choice(active, rng.integers(len(active) + 1), replace=False)
        for index in changed:
            flow = heap.flows[index]
            flow["left"] = max(0.0, flow["left"] - flow["rate"] * (now - flow["since_ps"]))
            flow["rate"], flow["since_ps"] = rng.integers(5) / 4, now
        for index in changed.tolist():
            _core.bring_forward(tuple(heap), index)
        ends = ends_of(heap, active)
        assert _core.first_end(tuple(heap)) == min(ends.values())
        while active and _core.first_end(tuple(heap)) <= now + 1:
            index = _core.take_first_end(tuple(heap))
            assert index == min(active, key=lambda flow: (ends[flow], flow))
            active.remove(index)
    assert admitted == FLOWS
    assert len(active) < FLOWS / 2


def test_flows_without_a_rate_never_end():
    heap = no_flows()
    assert _core.first_end(tuple(heap)) == np.inf
    _core.add_end(tuple(heap), 0)
    assert _core.first_end(tuple(heap)) == np.inf


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
