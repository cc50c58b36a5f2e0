"""The rules of single flows under congestion control, by hand, against those of their papers."""

from typing import Any

import pytest

from netsim.congestion import Ack, RoundTrip
from netsim.congestion.dcqcn import Dcqcn, DcqcnConfig
from netsim.congestion.dctcp import Dctcp, DctcpConfig
from netsim.congestion.swift import Swift, SwiftConfig
from netsim.foundation.units import service_ps
from tests.each import each


@each("share", [0.0, 0.25, 1.0])
def test_dctcp_estimates_the_marked_share(share):
    """With a share F of all packets marked the estimate tends to F, as (1 - g)^n from 1."""
    control = Dctcp(DctcpConfig.model_validate({"kind": "dctcp", "window": 4}), RoundTrip(10**6, 4, 10**11, 4, 4000))
    for number in range(3000):
        control.on_ack(Ack(1, number % 4 < 4 * share, False, 10**6, number * 1000))
    assert control.alpha == pytest.approx(share, abs=0.1)


def test_dctcp_cuts_once_a_round_trip_and_grows_by_a_packet_otherwise():
    control = Dctcp(DctcpConfig.model_validate({"kind": "dctcp", "window": 8}), RoundTrip(10**6, 4, 10**11, 4, 4000))
    for _ in range(8):
        control.on_ack(Ack(1, False, False, 10**6, 10**6))
    assert control.packets == 9.0
    alpha = control.alpha
    for now_ps in range(2 * 10**6, 3 * 10**6, 10**5):
        control.on_ack(Ack(1, True, False, 10**6, now_ps))
    assert control.packets == 9.0 * (1 - alpha / 2)
    control.on_ack(Ack(1, True, False, 10**6, 3 * 10**6))
    assert control.packets < 9.0 * (1 - alpha / 2)


LINE = 40 * 10**9
EMPTY = RoundTrip(10**7, 13, LINE, 4, 4000)
NOTIFY = (1, True, True, 10**7)


def dcqcn(**fields: Any) -> Dcqcn:
    return Dcqcn(DcqcnConfig.model_validate({"kind": "dcqcn"} | fields), EMPTY)


def test_dcqcn_follows_its_equations():
    """Equations 1 to 4 with alpha = 1 at first, by hand."""
    control, gain, step = dcqcn(), 1 / 256, 55 * 10**6
    assert control.gap_ps(4000, 0) == 0
    control.on_ack(Ack(*NOTIFY, 0))
    assert (control.rate_bps, control.alpha) == (LINE / 2, 1.0)
    assert control.gap_ps(4000, 0) == 2 * service_ps(4000, LINE)
    # Five steps of fast recovery, each half of what is missing; alpha decays at the same pace.
    for number in range(1, 6):
        control.gap_ps(0, number * step)
        assert control.rate_bps == LINE * (1 - 0.5 ** (number + 1))
        assert control.alpha == pytest.approx((1 - gain) ** number)
    control.on_ack(Ack(*NOTIFY, 5 * step))
    target = LINE * (1 - 0.5**6)
    rate = target * (1 - (1 - gain) ** 5 / 2)
    assert control.rate_bps == pytest.approx(rate)
    for _ in range(5):
        rate = (rate + target) / 2
    for _ in range(3):
        target = min(LINE, target + 40 * 10**6)
        rate = (rate + target) / 2
    control.gap_ps(0, 13 * step)
    assert control.rate_bps == pytest.approx(rate)


def test_dcqcn_increases_faster_when_timer_and_bytes_agree():
    """More than F steps of both kinds: hyper increase."""
    slow, fast = dcqcn(), dcqcn(increase_bytes="4000B")
    for control in (slow, fast):
        for _ in range(8):
            control.on_ack(Ack(*NOTIFY, 0))
        for number in range(1, 12):
            control.gap_ps(4000, number * 55 * 10**6)
    assert fast.rate_bps > slow.rate_bps + 5 * 400 * 10**6


def test_dcqcn_catches_up_in_any_number_of_looks():
    """Timers are looked at lazily: how often does not matter."""
    one, many = dcqcn(), dcqcn()
    for control in (one, many):
        control.on_ack(Ack(*NOTIFY, 1234))
    for now_ps in range(10**6, 10**9, 7 * 10**6):
        many.gap_ps(0, now_ps)
    assert one.gap_ps(0, 10**9) == many.gap_ps(0, 10**9)
    assert (one.rate_bps, one.alpha) == (many.rate_bps, many.alpha)


def test_swift_below_one_packet_spaces_packets_by_round_trips():
    control = Swift(SwiftConfig.model_validate({"kind": "swift", "window": 1, "queueing": "0ns"}), EMPTY)
    now_ps = 0
    while control.packets > 0.25:
        now_ps += 10**9
        control.on_ack(Ack(1, False, False, 10**8, now_ps))
    assert control.window() == 1
    assert control.gap_ps(4000, now_ps) == int(10**8 / control.packets)
    assert control.gap_ps(4000, now_ps) >= 4 * 10**8


def test_swift_heeds_trimmed_packets_once_a_round_trip():
    """A header overtakes the queue that trimmed it: its short round trip is no reason to send more."""
    control = Swift(SwiftConfig.model_validate({"kind": "swift", "window": 16}), EMPTY)
    for _ in range(5):
        control.on_ack(Ack(0, True, False, EMPTY.time_ps // 2, 10**9))
    assert control.packets == 8.0


def test_dctcp_with_an_estimate_of_zero_is_not_halved_by_the_first_mark():
    """alpha = 0 at first: a mark takes nothing until a window has shown its share of marks, g F then."""
    config = {"kind": "dctcp", "window": 8, "alpha": 0, "gain": 0.25}
    control = Dctcp(DctcpConfig.model_validate(config), RoundTrip(10**6, 4, 10**11, 4, 4000))
    for number in range(8):
        control.on_ack(Ack(1, number < 4, False, 10**6, 10**6))
    assert (control.packets, control.alpha) == (8.0, 0.25 * 0.5)
    control.on_ack(Ack(1, True, False, 10**6, 3 * 10**6))
    assert control.packets == 8.0 * (1 - 0.125 / 2)


def test_swift_adds_to_its_target_for_links_and_for_small_windows():
    """Section 3.2: links * hop, and of the range (1/sqrt(w) - 1/sqrt(most)) / (1/sqrt(least) - 1/sqrt(most)).

    With windows from 1/4 to 16 packets the fraction is 4 / sqrt(w) / 7 - 1/7: 1 at 1/4, 3/7 at 1, 1/7 at 4, 0 at 16.
    """
    scaling = {"hop_scaling": "1us", "flow_scaling": "70us", "scaled_from": 0.25, "scaled_to": 16}
    base_ps = EMPTY.time_ps + 5 * 10**6 + 4 * 10**6
    for window, more_us in ((1, 30), (4, 10), (16, 0), (64, 0)):
        config = SwiftConfig.model_validate({"kind": "swift", "window": window} | scaling)
        for late_ps in (-2, 2):
            control = Swift(config, EMPTY)
            control.on_ack(Ack(1, False, False, base_ps + more_us * 10**6 + late_ps, 10**9))
            assert (control.packets > window) == (late_ps < 0), (window, late_ps)
