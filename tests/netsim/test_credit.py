"""Receivers that ask for packets: the accounts of one flow by hand, and what an incast and a late sender get."""

import pytest

from netsim.congestion import Ack, RoundTrip
from netsim.congestion.credit import Credited, NdpConfig, ReceiverCreditConfig
from netsim.engine.protocol import Outcome
from netsim.foundation.refusal import Refusal
from netsim.simulation.scenario import read_scenario
from netsim.topology.failure import FailureConfig
from tests.each import each
from tests.netsim.closed_loop import controlled, run
from tests.netsim.documents import scenario_of
from tests.netsim.scenes import fabric, flow, scene

EMPTY = RoundTrip(12 * 10**6, 38, 100 * 10**9, 4, 4000)
PACKET_PS = 320_000
KINDS = ["receiver_credit", "ndp"]


def credited(**fields: object) -> Credited:
    return Credited(ReceiverCreditConfig.model_validate({"kind": "receiver_credit", "window": 3} | fields), EMPTY)


def test_a_sender_spends_its_window_and_then_what_it_is_given():
    control = credited()
    for _ in range(3):
        assert control.window() > 0
        control.gap_ps(4000, 0)
    assert control.window() == 0
    control.on_credit(4)
    control.on_credit(4)
    assert control.credit == 4, "credits are counted from the beginning, so that one that comes twice counts once"
    control.on_credit(9)
    assert control.credit == 9, "and the next makes up for a lost one"


def test_lost_packets_give_their_credit_back_and_trimmed_ones_do_not():
    control = credited()
    for _ in range(3):
        control.gap_ps(4000, 0)
    control.on_ack(Ack(0, True, False, 10**7, 10**7, True, in_flight=2))
    assert control.credit == 0, "the receiver has seen the header"
    control.on_ack(Ack(1, False, False, 10**7, 10**7, False, in_flight=0))
    assert control.credit == 1, "one acknowledged, and one shown to be lost"
    control.gap_ps(4000, 0)
    control.on_timeout(10**8)
    assert control.credit == 1
    control.on_timeout(10**9)
    assert control.credit == 1, "one packet may always go"


def test_how_far_a_receiver_asks_ahead():
    """1.5 products of 38 packets, of which the first window is unasked; NDP keeps as many under way as at first."""
    assert credited(window="bdp").ahead == 57 - 38
    assert credited(window=57).ahead == credited(window=60).ahead == 0
    assert credited(outstanding=5).ahead == 2
    assert Credited(NdpConfig(kind="ndp"), EMPTY).ahead == 0


def incast(kind: str, senders: int = 7, size_bytes: int = 400_000, late_ps: int = 0, **fields: object) -> Outcome:
    """Senders into one host, the last of them `late_ps` later."""
    tasks = [flow(src, 0, size_bytes, late_ps if src == senders else 0) for src in range(1, senders + 1)]
    what = scene(fabric(2, 4, 4), tasks)
    sections = {"recovery": {"kind": "selective", "timeout": "10ms"}, "flow_control": {"kind": "trim"}}
    return run(controlled(what, queue="60KB", congestion={"kind": kind} | fields, **sections), "spray_random")


@each("kind", KINDS)
def test_an_incast_loses_first_windows_at_most_and_keeps_the_receiver_busy(kind):
    outcome = incast(kind)
    bandwidth_delay = 17
    assert 0 < outcome.losses.trimmed <= 7 * bandwidth_delay
    assert 700 * PACKET_PS < outcome.completion_ps < 1.03 * 700 * PACKET_PS
    ends = outcome.flows.end_ps
    assert ends.max() - ends.min() <= 7 * bandwidth_delay * PACKET_PS, "but for first windows, which differ in luck"


@each("pace", [0.5, 0.8])
def test_the_pace_is_the_receivers(pace):
    """With a first window of one packet a flow is as fast as it is asked to be."""
    outcome = incast("receiver_credit", 1, 4_000_000, window=1, outstanding=40, pace=pace)
    assert outcome.completion_ps == pytest.approx(1000 * PACKET_PS / pace, rel=0.02)


def test_a_late_sender_gets_its_share_at_once():
    """Two flows, one half a run later: it ends as if it had half of the link from its first credit on."""
    late_ps = 50 * 4 * PACKET_PS
    outcome = incast("receiver_credit", 2, 1_600_000, late_ps, grant=4)
    first, second = outcome.flows.end_ps
    left = 400 - 200
    assert first == pytest.approx(late_ps + 2 * left * PACKET_PS, rel=0.05)
    assert second == pytest.approx(800 * PACKET_PS, rel=0.05)


@each("kind", KINDS)
def test_a_flow_within_its_first_window_needs_no_credit(kind):
    """A credit would be one more control packet than the acknowledgements."""
    topology = fabric(2, 4, 4)
    what = controlled(scene(topology, [flow(0, 5, 12_000)]), "60KB", congestion={"kind": kind, "window": 3})
    recovery = {"recovery": {"kind": "selective", "timeout": "10ms"}, "flow_control": {"kind": "trim"}}
    outcome = run(controlled(what, "60KB", **recovery))
    assert outcome.control_hops == 3 * 4


def test_lost_credits_do_not_stop_a_flow():
    """The only way back is down for a while: credits and acknowledgements are lost, and a timer goes on."""
    down = {"link": "leaf0-host0", "at": "20us", "until": "60us"}
    what = scene(fabric(2, 1, 1), [flow(0, 1, 800_000)], failures=[FailureConfig.model_validate(down)])
    sections = {"recovery": {"kind": "selective", "timeout": "30us"}, "flow_control": {"kind": "trim"}}
    outcome = run(controlled(what, "60KB", congestion={"kind": "receiver_credit", "window": 5}, **sections))
    assert outcome.losses.dropped > 0
    assert outcome.completion_ps > 100 * 10**6


def test_what_receivers_need_is_said():
    document = scenario_of(2, 2, 2, {"kind": "flows", "path": "flows.csv"}, congestion={"kind": "ndp"})
    with pytest.raises(Refusal, match="congestion ndp counts packets one by one"):
        read_scenario(document)
    with pytest.raises(Refusal, match="ndp lives on the headers of trimmed packets"):
        read_scenario(document | {"recovery": {"kind": "selective"}})
