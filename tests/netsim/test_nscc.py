"""NSCC's four cases and quick adapt, by hand, at the round trip for which the specification gives its constants."""

from typing import Any

import pytest

from netsim.congestion import Ack, RoundTrip
from netsim.congestion.nscc import Nscc, NsccConfig
from netsim.engine.event.engine import EventEngine
from netsim.engine.protocol import Outcome
from netsim.engine.reference.engine import ReferenceEngine
from netsim.foundation.refusal import Refusal
from netsim.simulation.scenario import read_scenario
from netsim.transport.protocol import Flow
from netsim.transport.reps import Reps
from netsim.workload.tasks import Task
from tests.each import each
from tests.netsim.closed_loop import controlled, run, transport_of
from tests.netsim.documents import scenario_of
from tests.netsim.scenes import fabric, flow, scene

US = 10**6
EMPTY = RoundTrip(12 * US, 38, 100 * 10**9, 4, 4000)
"""One bandwidth-delay product of 150 kB: all gains have their plain values, and the target is 12 us."""


def nscc(trims: bool = False, **fields: object) -> Nscc:
    """A flow that starts with 10 packets of 4000 B."""
    return Nscc(NsccConfig.model_validate({"kind": "nscc", "window": 10} | fields), EMPTY, trims)


def hear(control: Nscc, delay_us: int, now_us: int, marked: bool = False, packets: int = 1, under_way: int = 0) -> None:
    """An acknowledgement of packets that were delayed by so much."""
    control.on_ack(Ack(packets, marked, False, (12 + delay_us) * US, now_us * US, False, under_way))


def refuse(control: Nscc, now_us: int, under_way: int = 0) -> None:
    """The header of a trimmed packet is back after a round trip."""
    control.on_ack(Ack(0, True, False, 12 * US, now_us * US, True, under_way))


def test_the_window_starts_at_and_keeps_to_three_halves_of_the_bandwidth_delay_product():
    control = nscc(window="bdp")
    assert control.window_bytes == 225_000
    assert control.window() == 56
    hear(control, 0, 20, packets=60)
    assert control.window_bytes == 225_000
    control.on_ack(Ack(1, False, False, 6 * US, 21 * US))
    assert control.window_bytes == 112_500, "a shorter round trip halves the product"


def test_proportional_increase_is_four_packets_a_round_trip_without_delay():
    """4 MTU (target - delay) / target, times the acknowledged share of the window; and 0.15 MTU once a round trip."""
    control = nscc()
    hear(control, 6, 20)
    assert control.window_bytes == pytest.approx(40_000 + 4 * 4000 * 0.5 * 0.1 + 600)


def test_fair_increase_is_five_packets_times_the_acknowledged_share_of_the_window():
    control = nscc()
    hear(control, 18, 20)
    assert control.window_bytes == pytest.approx(40_000 + 5 * 4000 * 0.1 + 600)


def test_increases_are_gathered_for_eight_packets():
    control = nscc()
    hear(control, 12, 20)
    first = control.window_bytes
    for _ in range(8):
        hear(control, 12, 21)
        assert control.window_bytes == first
    hear(control, 12, 21)
    assert control.window_bytes == pytest.approx(first + 9 * 5 * 4000 * 4000 / first)


def test_fast_increase_adds_a_quarter_after_a_window_without_delay():
    control = nscc()
    hear(control, 0, 1, packets=10)
    assert control.window_bytes == pytest.approx(56_000), "not more than the window yet: in proportion"
    hear(control, 0, 1, packets=5)
    hear(control, 0, 1)
    assert control.window_bytes == pytest.approx(56_000 + 6 * 1000)
    hear(control, 2, 1)
    hear(control, 0, 1)
    assert control.window_bytes == pytest.approx(56_000 + 6 * 1000), "a delay of more than 1 us ends it"


def test_a_mark_without_delay_changes_nothing():
    control = nscc()
    for _ in range(20):
        hear(control, 11, 1, marked=True)
    assert control.window_bytes == 40_000


def test_the_window_shrinks_with_the_average_delay_once_a_round_trip():
    """55 delays of 24 us bring an average of weight 1/80 to 24 (1 - (79/80)^55) = 11.98 us, 56 to 12.13 us."""
    control = nscc()
    for _ in range(55):
        hear(control, 24, 13, marked=True)
    assert control.window_bytes == 40_600
    hear(control, 24, 13, marked=True)
    average = 24 * (1 - (79 / 80) ** 56)
    expected = 40_600 * (1 - 0.8 * (average - 12) / average)
    assert control.window_bytes == pytest.approx(expected)
    hear(control, 24, 25, marked=True)
    assert control.window_bytes == pytest.approx(expected), "not a whole round trip later"
    hear(control, 24, 26, marked=True)
    assert control.window_bytes < expected + 600


def test_a_decrease_takes_at_most_half():
    control = nscc()
    hear(control, 0, 1)
    for _ in range(1000):
        hear(control, 40, 2, marked=True)
    assert control.window_bytes >= 20_000


def test_a_trimmed_packet_takes_a_packet_off():
    control = nscc()
    refuse(control, 1)
    assert control.window_bytes == 36_000


def test_quick_adapt_leaves_what_has_got_through_since_it_last_looked():
    """It looks once in 24 us, round trip and target: from 1 us on 4 packets got through, less than 1/8 of 225 kB."""
    control = nscc()
    hear(control, 10, 1)
    for now_us in (2, 10, 20):
        hear(control, 10, now_us)
    refuse(control, 26, under_way=5)
    assert control.window_bytes == 3 * 4000, "the first acknowledgement began the count"
    for _ in range(5):
        hear(control, 40, 27, marked=True)
        assert control.window_bytes == 12_000, "marks of the 6 packets that were under way are ignored"


def test_quick_adapt_does_not_count_the_time_between_messages():
    """The first acknowledgement after a pause is no sign that little gets through."""
    control = nscc()
    hear(control, 10, 1)
    refuse(control, 2)
    before = control.window_bytes
    control.begin_message()
    hear(control, 10, 500)
    assert control.window_bytes >= before


def test_quick_adapt_needs_that_little_has_got_through():
    control = nscc(gate=3)
    hear(control, 10, 1)
    hear(control, 10, 2, packets=8)
    before = control.window_bytes
    refuse(control, 26)
    assert control.window_bytes == before - 4000


def test_very_long_delays_adapt_without_loss():
    control = nscc()
    hear(control, 10, 1)
    hear(control, 10, 2, packets=2)
    hear(control, 49, 26)
    assert control.window_bytes == 3 * 4000


def test_where_switches_trim_the_target_is_three_quarters():
    plain, trimming = nscc(), nscc(trims=True)
    for control in (plain, trimming):
        hear(control, 10, 20)
    assert plain.window_bytes == pytest.approx(40_000 + 16_000 * 2 / 12 * 0.1 + 600)
    assert trimming.window_bytes == pytest.approx(40_000 + 5 * 4000 * 0.1 + 600)


def _twice(state: str, kind: str = "nscc") -> Outcome:
    """Three senders with two messages each, the second ones at once, into one host."""
    tasks = [Task(src, 0, 400_000, 0, ()) for src in (1, 2, 3)]
    tasks += [Task(src, 0, 400_000, 10**7, (0, 1, 2)) for src in (1, 2, 3)]
    control = {"kind": kind, "state": state} | ({"mark_above": "20KB"} if kind == "dctcp" else {})
    trim = {"kind": "trim"}
    recovery = {"kind": "selective", "timeout": "200us"}
    what = scene(fabric(2, 2, 2), tasks)
    return run(controlled(what, queue="60KB", congestion=control, recovery=recovery, flow_control=trim))


@each("kind", ["nscc", "dctcp"])
def test_a_queue_pair_does_not_learn_twice(kind):
    """The second messages begin with the windows that the first ones have found, and lose less."""
    kept, fresh = _twice("queue_pair", kind), _twice("message", kind)
    first = slice(0, 3)
    assert (kept.flows.retransmitted[first] == fresh.flows.retransmitted[first]).all()
    assert kept.flows.retransmitted[3:].sum() < 0.5 * fresh.flows.retransmitted[3:].sum()


def test_thresholds_of_marks_belong_together():
    document = scenario_of(2, 2, 2, {"kind": "flows", "path": "flows.csv"})
    with pytest.raises(Refusal, match="mark_from and mark_all belong together"):
        read_scenario(document | {"congestion": {"kind": "nscc", "mark_from": "4KB"}})
    with pytest.raises(Refusal, match="mark_from is not below mark_all"):
        read_scenario(document | {"congestion": {"kind": "nscc", "mark_from": "4KB", "mark_all": "4KB"}})


@each("engine", [ReferenceEngine, EventEngine])
@each("marks, first, end", [("arrival", 9, 20), ("departure", 4, 15)])
def test_a_packet_is_marked_by_the_queue_that_it_finds_or_leaves_behind(engine: Any, marks: str, first: int, end: int):
    """Two hosts send ten packets each to a third one, in step; more than four packets mark.

    Before packet i of the queue are i // 2 packets, or one more. When it leaves, i + 1 are behind it while packets
    come, and at most 19 - i.
    """
    what = scene(fabric(1, 1, 3), [flow(0, 2, 40_000), flow(1, 2, 40_000)])
    limits = {"mark_from": "16000B", "mark_all": "16001B"}
    what = controlled(what, congestion={"kind": "nscc", "window": 20, "marks": marks, **limits})
    told: list[bool] = []
    outcome = engine(what, transport_of("ecmp", what), 0).run()
    assert outcome.losses.marked == end - first
    if engine is ReferenceEngine:

        class Watched(Reps):
            def on_ack(self, flow: Flow, path: int, marked: bool) -> None:  # noqa: ARG002
                told.append(marked)

        ReferenceEngine(what, Watched(0, 1, 8, 10**9, 10**6), 0).run()
        assert told == [first <= packet < end for packet in range(20)]


def test_senders_share_a_receiver_and_keep_it_busy():
    """An incast of 7 takes what its bytes take at line rate, and little more."""
    what = scene(fabric(2, 4, 4), [flow(src, 0, 1_000_000) for src in range(1, 8)])
    trim, recovery = {"kind": "trim"}, {"kind": "selective", "timeout": "1ms"}
    outcome = run(controlled(what, queue="100KB", congestion={"kind": "nscc"}, recovery=recovery, flow_control=trim))
    assert 560 * US < outcome.completion_ps < 1.05 * 560 * US
