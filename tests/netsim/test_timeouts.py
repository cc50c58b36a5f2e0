"""Timeouts: estimates of round trips against RFC 6298 in fractions, and doubling until there is progress."""

from fractions import Fraction
from itertools import product
from random import Random

from netsim.congestion.recovery import SelectiveConfig
from netsim.congestion.timeout import Timeout
from netsim.engine.event.engine import EventEngine
from netsim.engine.reference.engine import ReferenceEngine
from tests.each import each
from tests.netsim.closed_loop import controlled, failing, run, transport_of
from tests.netsim.scenes import fabric, flow, scene

MICROSECOND, MILLISECOND = 10**6, 10**9
ONE_HOST_DOWN = {"link": "host1-leaf1", "at": "5us", "noticed_after": "never"}


def timeout(**keys: str) -> Timeout:
    return Timeout(SelectiveConfig.model_validate({"kind": "selective", **keys}))


@each("seed", range(5))
def test_the_estimate_is_that_of_rfc_6298(seed):
    """Its equations (2.2) and (2.3) in fractions; integers differ by less than a picosecond for each part rounded."""
    random, estimate = Random(seed), timeout(shortest_timeout="1ps")
    srtt = rttvar = Fraction(0)
    for number in range(300):
        sample = random.randint(10**6, 10**8)
        estimate.measure(sample)
        if not number:
            srtt, rttvar = Fraction(sample), Fraction(sample, 2)
        else:
            rttvar = Fraction(3, 4) * rttvar + Fraction(1, 4) * abs(srtt - sample)
            srtt = Fraction(7, 8) * srtt + Fraction(1, 8) * sample
        assert abs(estimate.lasts_ps() - (srtt + 4 * rttvar)) < 32


def test_the_estimate_has_a_floor_and_a_fixed_timeout_none():
    estimate, fixed = timeout(), timeout(timeout="20us")
    for sample in (3 * MICROSECOND, 4 * MICROSECOND):
        estimate.measure(sample)
        fixed.measure(1000 * sample)
    assert estimate.lasts_ps() == MILLISECOND
    assert fixed.lasts_ps() == 20 * MICROSECOND
    estimate.measure(50 * MILLISECOND)
    assert estimate.lasts_ps() > 50 * MILLISECOND


@each("given, longest, expected", [("20us", "90us", [20, 40, 80, 90, 90]), ("5ms", "1ms", [5000] * 3)])
def test_each_timeout_in_a_row_doubles_the_next(given, longest, expected):
    waits = timeout(timeout=given, longest_timeout=longest)
    for fruitless, microseconds in enumerate(expected):
        waits.fruitless = fruitless
        assert waits.lasts_ps() == microseconds * MICROSECOND


@each("engine, kind", product([ReferenceEngine, EventEngine], ["selective", "go_back_n"]))
def test_transmissions_to_a_host_that_is_down_are_twice_as_far_apart_each_time(kind, engine):
    """One packet, lost for as long as the host is down: sent at 0, 100, 300, 700 us and so on."""
    down = ONE_HOST_DOWN | {"at": "1ps", "until": "6ms"}
    what = failing(scene(fabric(2, 1, 1), [flow(0, 1, 4000)]), down, recovery={"kind": kind, "timeout": "100us"})
    outcome = engine(what, transport_of("ecmp", what), 0).run()
    sent_us = [100 * (2**number - 1) for number in range(7)]
    assert outcome.packets == len(sent_us)
    assert outcome.completion_ps == sent_us[-1] * MICROSECOND + 4 * 320_000 + 4 * 500_000


@each("engine", [ReferenceEngine, EventEngine])
def test_progress_ends_the_row_and_its_long_last_wait(engine):
    """A window of one packet; the link is down for 6 ms, and again right after the first packet has come through."""
    times = [("1us", "6ms"), ("6305us", "6400us")]
    downs = [ONE_HOST_DOWN | {"at": at, "until": until} for at, until in times]
    sections = {"recovery": {"kind": "selective", "timeout": "100us"}, "congestion": {"kind": "window", "window": 1}}
    what = failing(scene(fabric(2, 1, 1), [flow(0, 1, 8000)]), *downs, **sections)
    outcome = engine(what, transport_of("ecmp", what), 0).run()
    again_us = 100 * (2**6 - 1)
    round_trip_ps = 4 * 320_000 + 4 * 500_000 + 4 * 5_120 + 4 * 500_000
    second = again_us * MICROSECOND + round_trip_ps
    assert outcome.completion_ps == second + 100 * MICROSECOND + 4 * 320_000 + 4 * 500_000


def test_a_crowd_sends_little_twice_where_round_trips_outgrow_the_first_timeout():
    """255 senders fill the receiver's link for 2 ms; one that knew would send nothing twice."""
    what = scene(fabric(16, 1, 16), [flow(src, 0, 32_000) for src in range(1, 256)])
    share = {}
    for name, waits in {
        "estimated": {"shortest_timeout": "100us"},
        "fixed": {"timeout": "100us", "longest_timeout": "100us"},
    }.items():
        crowd = controlled(what, recovery={"kind": "selective", **waits}, congestion={"kind": "window", "window": 2})
        outcome = run(crowd)
        share[name] = outcome.losses.retransmitted / outcome.packets
    assert share["estimated"] < 0.5 * share["fixed"]
