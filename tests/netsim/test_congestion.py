"""Congestion control against its papers: what a window lets through, where rates and queues settle."""

from collections.abc import Callable
from functools import cache
from itertools import product
from math import sqrt
from typing import Any

import numpy as np
import pytest

from netsim.congestion import Ack, Congestion, CongestionSettings, RoundTrip
from netsim.congestion.dcqcn import Dcqcn, DcqcnConfig
from netsim.congestion.dctcp import DctcpConfig
from netsim.congestion.swift import SwiftConfig
from netsim.congestion.window import FixedWindow, WindowConfig
from netsim.engine.protocol import Outcome, Scene
from netsim.foundation.units import service_ps
from tests.each import each
from tests.netsim.closed_loop import PACKET_TRANSPORTS, WatchedEngine, controlled, random_traffic, run
from tests.netsim.scenes import fabric, flow, scene
from tests.pairwise import pairwise_cover

SERVICE, DELAY = 320_000, 500_000  # 4000 B at 100 Gbps; 500 ns
CONTROLS = [
    {"kind": "window", "window": 1},
    {"kind": "window", "window": "bdp"},
    {"kind": "dctcp", "mark_above": "8KB"},
    {"kind": "dcqcn", "mark_from": "4KB", "mark_all": "16KB", "notify_every": "5us"},
    {"kind": "swift", "queueing": "1us"},
]


def watch(
    monkeypatch: pytest.MonkeyPatch, kind: type[CongestionSettings], look: Callable[[int, int, Any], None]
) -> list[RoundTrip]:
    """Calls `look` with the time, the round trip and the flow's control after each acknowledgement."""
    build, empty = kind.control, []

    def watched(config: Any, round_trip: RoundTrip, start_ps: int, trims: bool) -> Congestion:
        control = build(config, round_trip, start_ps, trims)
        hear = control.on_ack
        empty.append(round_trip)

        def on_ack(ack: Ack) -> None:
            hear(ack)
            look(ack.now_ps, ack.round_trip_ps, control)

        control.on_ack = on_ack  # type: ignore[method-assign]
        return control

    monkeypatch.setattr(kind, "control", watched)
    return empty


def same_but_for_control_traffic(one: Outcome, other: Outcome) -> bool:
    """Data fared the same to the picosecond."""
    links = ("busy_ps", "max_queue_ps")
    return (
        np.array_equal(one.flows, other.flows)
        and np.array_equal(one.task_end_ps, other.task_end_ps)
        and all(np.array_equal(one.links[name], other.links[name]) for name in links)
        and np.array_equal(one.queues.max_queue_ps, other.queues.max_queue_ps)
        and one.packet_hops == other.packet_hops
    )


@each("transport", PACKET_TRANSPORTS, ids=str)
@each("seed", range(2))
def test_acknowledgements_in_the_control_lane_and_windows_without_end_change_nothing(transport, seed):
    """Listening alone, a vast window, and a recovery that never has to act, all equal the open loop."""
    what = random_traffic(seed)
    alone = run(what, transport, seed)
    closed: list[dict[str, Any]] = [
        {"congestion": {"kind": "window", "window": 2**20}},
        {"recovery": {"kind": "selective", "timeout": "1s"}},
        {"recovery": {"kind": "selective", "timeout": "1s"}, "queue": "1GB"},
    ]
    for sections in closed:
        outcome = run(controlled(what, **sections), transport, seed)
        assert same_but_for_control_traffic(outcome, alone)
        links = hops(what, outcome)
        weight = (outcome.flows["bytes"] * links).sum() + (64 * outcome.flows["packets"] * links).sum()
        assert outcome.links["bytes"].sum() == weight


def hops(what: Scene, outcome: Outcome) -> np.ndarray:
    """Links of each flow's paths."""
    ends = [(what.hosts[record.src], what.hosts[record.dst]) for record in outcome.flows]
    return np.array([len(what.routes.paths(*pair)[0]) for pair in ends])


@each("transport, congestion, lane", pairwise_cover(PACKET_TRANSPORTS, CONTROLS, ["control", "data"]))
def test_windows_are_kept_and_single_paths_keep_the_order(transport, congestion, lane):
    """`WatchedEngine` checks the window and the pace of every packet that leaves."""
    seed = CONTROLS.index(congestion)
    what = controlled(random_traffic(seed), congestion=congestion, acknowledgement={"lane": lane})
    outcome = WatchedEngine(what, transport, seed).run()
    assert outcome.losses.dropped == outcome.losses.retransmitted == 0
    if transport in ("ecmp", "mprdma-2", "adaptive_flow", "ethereal"):
        assert not outcome.flows.reordered.any()


@each("window, packets", product([1, 2, 5, 9, 13, 14, 40], [1, 30]))
def test_a_fixed_window_lets_one_window_through_in_a_round_trip(window, packets):
    """Packet n leaves (n div W) round trips and (n mod W) services after the first, or as fast as the link goes."""
    hops, news = 4, 5120  # 64 B at 100 Gbps
    round_trip = hops * (SERVICE + DELAY) + hops * (news + DELAY)
    what = controlled(
        scene(fabric(2, 1, 1), [flow(0, 1, packets * 4000)]), congestion={"kind": "window", "window": window}
    )
    rounds, rest = divmod(packets - 1, window)
    leaves = rounds * max(round_trip, window * SERVICE) + rest * SERVICE
    assert run(what).completion_ps == leaves + hops * (SERVICE + DELAY)


def test_the_window_called_bdp_is_the_least_that_keeps_a_path_busy():
    one_route = 4 * (SERVICE + DELAY)
    ideal = 99 * SERVICE + one_route
    times, packets = {}, []
    for window in ("bdp", *range(14, 20)):
        what = controlled(
            scene(fabric(2, 1, 1), [flow(0, 1, 100 * 4000)]), congestion={"kind": "window", "window": window}
        )
        with pytest.MonkeyPatch.context() as patch:
            packets = watch(patch, WindowConfig, lambda *_: None)
            times[window] = run(what).completion_ps
    least = packets[0].packets
    assert times["bdp"] == times[least] == ideal
    assert times[least - 1] > ideal


def test_acknowledgements_in_the_data_lane_stand_in_queues():
    """Two hosts of different leaves send to each other: the news of one waits behind the data of the other."""
    both_ways = scene(fabric(2, 1, 1), [flow(0, 1, 400_000), flow(1, 0, 400_000)])
    completion = {}
    for lane in ("control", "data"):
        acknowledgement = {"lane": lane, "size": "64B"}
        what = controlled(both_ways, congestion={"kind": "window"}, acknowledgement=acknowledgement)
        completion[lane] = run(what).completion_ps
    # Each host sends 100 packets and the 100 acknowledgements of the other's.
    assert completion["data"] > completion["control"] + 50 * service_ps(64, 100 * 10**9)


BOTTLENECK = {"host_rate": "100Gbps", "fabric_rate": "25Gbps", "link_delay": "5us"}
PACKET_PS = 1_280_000  # 4000 B at 25 Gbps


@cache
def sawtooth(threshold: int, packets: int = 3000) -> tuple[float, float, float, float]:
    """One long DCTCP flow: least and largest window of its second half, share of the link, C * RTT in packets."""
    windows: list[tuple[int, float]] = []
    congestion = {"kind": "dctcp", "mark_above": f"{4000 * threshold}B", "window": 30}
    what = controlled(scene(fabric(2, 1, 1, **BOTTLENECK), [flow(0, 1, packets * 4000)]), congestion=congestion)
    with pytest.MonkeyPatch.context() as patch:
        empty = watch(patch, DctcpConfig, lambda now, _, control: windows.append((now, control.packets)))
        outcome = run(what)
    late = [(now, window) for now, window in windows if now > outcome.completion_ps // 2]
    share = (len(late) - 1) * PACKET_PS / (late[-1][0] - late[0][0])
    values = [window for _, window in late]
    return min(values), max(values), share, empty[0].time_ps / PACKET_PS


@each("threshold", [5, 8, 16, 32])
def test_dctcp_swings_as_far_as_its_analysis_says(threshold):
    """Amplitude sqrt(2 (C RTT + K)) / 2 below a peak of C RTT + K + 1 packets (SIGCOMM 2010, section 3.3)."""
    low, high, _, bandwidth_delay = sawtooth(threshold)
    assert high == pytest.approx(bandwidth_delay + threshold + 1, abs=1.5)
    assert high - low == pytest.approx(sqrt(2 * (bandwidth_delay + threshold)) / 2, rel=0.2)


def test_dctcp_keeps_the_link_busy_from_a_seventh_of_the_round_trip_on():
    """The bound K > C RTT / 7 of section 3.4: here C RTT is 34 packets."""
    share = {threshold: sawtooth(threshold)[2] for threshold in (0, 2, 5, 8, 16)}
    assert all(share[threshold] > 0.999 for threshold in (5, 8, 16))
    assert share[0] < share[2] < 0.99


def test_dctcp_queue_stays_around_its_threshold():
    """The longest queue of N flows is K and what they add in a round trip, and they share the link evenly."""
    senders, threshold = 4, 20
    topology = fabric(1, 1, senders + 1, link_delay="2us")
    congestion = {"kind": "dctcp", "mark_above": f"{4000 * threshold}B", "window": 4}
    tasks = [flow(src, senders, 4000 * 1500) for src in range(senders)]
    outcome = run(controlled(scene(topology, tasks), congestion=congestion))
    most = outcome.links[topology.hosts + senders].max_queue_ps / SERVICE
    assert threshold < most <= threshold + 2 * senders + 1
    fair = sorted(outcome.flows.end_ps)
    assert fair[0] > 0.8 * fair[-1]


class StartingAt(Dcqcn):
    """A flow whose first rate is given, and that notes its rates."""

    def __init__(self, config: DcqcnConfig, round_trip: RoundTrip, share: float) -> None:
        super().__init__(config, round_trip)
        self.rate_bps = self._target_bps = share * self.rate_bps
        self.trail: list[tuple[int, float]] = []

    def gap_ps(self, wire_bytes: int, now_ps: int) -> int:
        self.trail.append((now_ps, self.rate_bps))
        return super().gap_ps(wire_bytes, now_ps)


@each("first", [1.0, 0.1])
def test_dcqcn_settles_at_the_same_rates_wherever_it_starts(monkeypatch, first):
    """Two flows through one link share it, whatever the first rate of one of them."""
    topology = fabric(1, 1, 3, host_rate="10Gbps", link_delay="1us")
    tasks = [flow(src, 2, 9000 * 6000) for src in range(2)]
    marking = {"mark_from": "5KB", "mark_all": "400KB", "mark_at_most": 0.2, "slowest": "10Mbps"}
    what = controlled(scene(topology, tasks, payload="9000B"), congestion={"kind": "dcqcn"} | marking)
    built: list[StartingAt] = []

    def build(config: Any, round_trip: RoundTrip, _start_ps: int, _trims: bool) -> Congestion:
        built.append(StartingAt(config, round_trip, 1.0 if built else first))
        return built[-1]

    monkeypatch.setattr(DcqcnConfig, "control", build)
    end = run(what).flows["end_ps"].min()
    for control in built:
        late = [rate for now, rate in control.trail if 0.6 * end < now < end]
        assert np.mean(late) == pytest.approx(5e9, rel=0.2)


@each("senders", [1, 6])
def test_swift_settles_near_its_target(monkeypatch, senders):
    """Late in a long incast the mean round trip is the target, for a few flows and for many."""
    trips: list[tuple[int, int]] = []
    empty = watch(monkeypatch, SwiftConfig, lambda now, trip, _: trips.append((now, trip)))
    queueing = 10 * 10**6
    topology = fabric(2, 1, 6, host_rate="100Gbps", fabric_rate="40Gbps", link_delay="1us")
    tasks = [flow(src, 6 + src, 4000 * 6000 // senders) for src in range(senders)]
    outcome = run(controlled(scene(topology, tasks), congestion={"kind": "swift", "queueing": "10us"}))
    late = [trip for now, trip in trips if now > outcome.completion_ps // 3]
    target = empty[0].time_ps + queueing
    assert np.mean(late) == pytest.approx(target, rel=0.15)
    share = 6000 * service_ps(4000, 40 * 10**9) / outcome.completion_ps
    assert share > 0.95


class Slow(FixedWindow):
    """Leaves a long time between packets."""

    def gap_ps(self, wire_bytes: int, now_ps: int) -> int:  # noqa: ARG002
        return 300 * SERVICE


def test_a_paced_flow_in_a_long_ring_is_not_forgotten(monkeypatch):
    """Its turn comes before its pace allows and after all its news: nothing but its pace can wake it."""
    build, number = WindowConfig.control, iter(range(1000))
    monkeypatch.setattr(WindowConfig, "control", lambda *a: build(*a) if next(number) else Slow())
    tasks = [flow(0, 1, 5 * 4000)] + [flow(0, 1, 40 * 4000) for _ in range(100)]
    vast = {"kind": "window", "window": 2**20}
    outcome = WatchedEngine(controlled(scene(fabric(1, 1, 2), tasks, destinations="rotated"), congestion=vast)).run()
    earliest = 4 * 300 * SERVICE + 2 * (SERVICE + DELAY)
    assert earliest <= outcome.flows[0].end_ps <= earliest + 4 * 101 * SERVICE
