"""Max-min rates and the flow-level engine against closed forms and the certificate of max-min fairness."""

import random

import numpy as np
import pytest

from netsim.engine.fluid import FluidEngine, Incidence, max_min_rates
from netsim.workload.protocol import Task
from tests.netsim.scenes import all_to_all, fabric, flow, scene

SERVICE, DELAY = 320_000, 500_000


def over(*links: int) -> Incidence:
    """A flow over whole links."""
    return np.array(links), np.ones(len(links))


def test_line_network():
    """One long flow over n links and a short one on each: the long one gets the least of the halves."""
    capacity = np.array([10.0, 6.0, 8.0])
    rates = max_min_rates([over(0, 1, 2), over(0), over(1), over(2)], capacity)
    assert rates == pytest.approx([3, 7, 3, 5])


@pytest.mark.parametrize("seed", range(40))
def test_certificate(seed):
    """Rates are max-min fair if and only if every flow has a full link on which no flow is faster."""
    draw = random.Random(seed)
    links = draw.randint(1, 8)
    capacity = np.array([draw.choice([1.0, 2.0, 5.0, 7.5]) for _ in range(links)])
    flows: list[Incidence] = []
    for _ in range(draw.randint(1, 15)):
        chosen = draw.sample(range(links), draw.randint(1, links))
        shares = np.array([draw.choice([1.0, 0.5, 0.25]) for _ in chosen])
        flows.append((np.array(chosen), shares))
    rates = max_min_rates(flows, capacity)
    load = np.zeros(links)
    for (chosen, shares), rate in zip(flows, rates, strict=True):
        load[chosen] += shares * rate
    assert (load <= capacity * (1 + 1e-9)).all()
    for (chosen, _), rate in zip(flows, rates, strict=True):
        bottlenecks = [
            link
            for link in chosen
            if load[link] >= capacity[link] * (1 - 1e-9)
            and all(other <= rate * (1 + 1e-9) for (its, _), other in zip(flows, rates, strict=True) if link in its)
        ]
        assert bottlenecks


@pytest.mark.parametrize("packets", [1, 16])
@pytest.mark.parametrize(("dst", "links"), [(1, 2), (2, 4)])
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
    one_way = 2 * DELAY + 2 * SERVICE
    outcome = FluidEngine(scene(fabric(1, 1, 2), tasks)).run()
    assert list(outcome.task_end_ps) == [one_way, one_way + 5000, 2 * one_way + 5700, 2 * one_way + 5700]
