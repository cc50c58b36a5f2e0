"""Max-min rates against closed forms, water filling in fractions, and the certificate of max-min fairness."""

import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from netsim.engine import _core
from netsim.engine.fluid.flows import SegmentArrays, Segments
from netsim.topology.protocol import Path
from tests.each import each

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
        for flow in [f for f, s in enumerate(share) if f not in rate and first in s]:
            rate[flow] = level[first]
    return [rate[flow] for flow in range(len(flows))]


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
