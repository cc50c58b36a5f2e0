"""The project's reference case: 64 hosts, 8 leaves of 8, 8 spines, 16 packets for each pair, five seeds."""

from pathlib import Path
from statistics import mean

import pytest

from netsim import Results, simulate

SCENARIO = Path("configs/scenarios/all_to_all_64.yaml")
BOUND_NS = (63 * 16 + 3) * 320 + 4 * 500


@pytest.fixture(scope="module")
def results() -> Results:
    return simulate(SCENARIO)


def times_ns(results: Results, transport: str) -> list[float]:
    return [run.completion_ps / 1000 for run in results.runs if run.transport == transport]


def test_the_bound_is_the_closed_form(results):
    assert {run.bound_ps for run in results.runs} == {BOUND_NS * 1000}
    assert all(run.completion_ps >= run.bound_ps for run in results.runs)


def test_ethereal_is_within_two_percent_of_the_bound_and_not_behind_random_spray(results):
    ethereal = mean(times_ns(results, "ethereal"))
    assert len(times_ns(results, "ethereal")) == 5
    assert ethereal <= 1.02 * BOUND_NS
    assert ethereal <= mean(times_ns(results, "spray_random"))


def test_ecmp_is_at_least_ten_percent_behind_ethereal(results):
    assert mean(times_ns(results, "ecmp")) >= 1.1 * mean(times_ns(results, "ethereal"))


def test_every_fabric_link_carries_exactly_what_ideal_spraying_puts_on_it(results):
    """Between two leaves 64 messages of 64 kB over 8 spines; 7 other leaves."""
    share = 7 * 64 * 64_000 // 8
    for run in results.runs:
        if run.transport in ("ethereal", "ideal"):
            names = [link.name for link in results.links]
            fabric = [record.bytes for name, record in zip(names, run.links, strict=True) if "spine" in name]
            assert len(fabric) == 128
            assert set(fabric) == {share}


def test_ideal_takes_exactly_the_bound(results):
    assert set(times_ns(results, "ideal")) == {BOUND_NS}


def test_packets_and_hops(results):
    """63 of 64 pairs' hosts: 7 in the leaf over two links, 56 outside over four."""
    for run in results.runs:
        if run.engine != "fluid":
            assert run.packets == 64 * 63 * 16
            assert run.packet_hops == 64 * 16 * (7 * 2 + 56 * 4)
