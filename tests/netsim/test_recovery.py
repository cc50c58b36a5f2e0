"""Loss and recovery: whatever is lost, in the end every byte has come exactly once."""

import random
from collections import Counter
from itertools import product

from netsim.congestion.recovery import GoBackN, Recovery, Selective
from tests.each import each
from tests.netsim.closed_loop import PACKET_TRANSPORTS, WatchedEngine, controlled, random_traffic, run
from tests.netsim.scenes import fabric, flow, scene
from tests.pairwise import pairwise_cover

SERVICE, DELAY = 320_000, 500_000  # 4000 B at 100 Gbps; 500 ns
RECOVERIES = [
    {"kind": "go_back_n", "timeout": "200us"},
    {"kind": "selective", "timeout": "200us"},
    {"kind": "selective", "timeout": "200us", "reordering": 0},
    {"kind": "selective", "timeout": "200us", "reordering": 16},
]
CONGESTION = [
    {"kind": "none"},
    {"kind": "window"},
    {"kind": "dctcp", "mark_above": "12KB"},
    {"kind": "dcqcn", "mark_from": "4KB", "mark_all": "16KB"},
    {"kind": "swift"},
]


def test_small_queues_lose_packets_and_nothing_for_good():
    """Every transport with every recovery and congestion control, in every queue and with answers in either lane."""
    dropped: Counter[str] = Counter()
    parts = PACKET_TRANSPORTS, RECOVERIES, CONGESTION, ["4KB", "12KB", "40KB"], ["control", "data"]
    for seed, (transport, recovery, congestion, queue, lane) in enumerate(pairwise_cover(*parts)):
        sections = {"recovery": recovery, "congestion": congestion, "acknowledgement": {"lane": lane}}
        what = controlled(random_traffic(seed), queue=queue, **sections)
        lost = WatchedEngine(what, transport, seed).run().losses.dropped
        dropped.update({str(transport): lost, str(recovery): lost})
    assert len(dropped) == len(PACKET_TRANSPORTS) + len(RECOVERIES)
    assert min(dropped.values()) > 0


@each("seed", range(5))
def test_on_one_path_exactly_what_is_lost_goes_again(seed):
    """Selective repeat with a timeout that never runs out, and a last packet that is never lost."""
    draw = random.Random(seed)
    topology = fabric(1, 1, 5)
    tasks = [flow(src, 4, 4000 * draw.randint(20, 60)) for src in range(4)]
    recovery = {"kind": "selective", "timeout": "1ms", "reordering": 0}
    outcome = WatchedEngine(controlled(scene(topology, tasks), queue="16KB", recovery=recovery)).run()
    assert outcome.losses.dropped == outcome.losses.retransmitted > 0
    assert outcome.links[topology.hosts + 4].bytes == sum(task.bytes for task in tasks)


def test_a_single_loss_costs_go_back_n_a_round_trip_and_selective_repeat_a_packet():
    """Two hosts send to a third whose queue holds two packets; both begin together, so that one of them loses."""
    topology = fabric(1, 1, 3)
    tasks = [flow(0, 2, 6 * 4000), flow(1, 2, 40 * 4000)]
    sent = {}
    for kind in ("go_back_n", "selective"):
        recovery = {"kind": kind, "timeout": "100us"} | ({"reordering": 0} if kind == "selective" else {})
        what = controlled(scene(topology, tasks), queue="8KB", recovery=recovery)
        outcome = WatchedEngine(what).run()
        assert outcome.losses.dropped > 0
        sent[kind] = outcome.losses.retransmitted
    assert sent["go_back_n"] > sent["selective"]


@each("timeout, kind", product(["1us", "3us"], ["go_back_n", "selective"]))
def test_a_timeout_below_the_round_trip_repeats_in_vain_but_ends(kind, timeout):
    recovery = {"kind": kind, "timeout": timeout}
    outcome = WatchedEngine(controlled(scene(fabric(2, 1, 2), [flow(0, 2, 50 * 4000)]), recovery=recovery)).run()
    assert outcome.losses.dropped == 0
    assert outcome.losses.retransmitted > 0


def test_a_lost_tail_waits_for_the_timeout():
    """Two packets meet in a queue for one; nothing follows the lost one, so only its timer tells."""
    timeout_ps = 50 * 10**6
    recovery = {"kind": "selective", "timeout": "50us", "reordering": 0}
    what = controlled(scene(fabric(1, 1, 3), [flow(0, 2, 4000), flow(1, 2, 4000)]), queue="4KB", recovery=recovery)
    outcome = run(what)
    alone = 2 * DELAY + 2 * SERVICE
    assert [record.end_ps for record in outcome.flows] == [alone, timeout_ps + alone]


@each("transport", ["spray_round_robin", "drb"])
def test_a_packet_that_is_overtaken_in_the_same_route_every_time_gets_through_in_the_end(transport):
    """The short last packet overtakes the first on another path and takes the only place in the queue before it."""
    what = scene(fabric(2, 3, 2), [flow(0, 2, 9300)])
    recovery = {"kind": "go_back_n", "timeout": "50us"}
    outcome = WatchedEngine(controlled(what, queue="4KB", recovery=recovery), transport).run()
    assert outcome.losses.dropped == 2  # at first, and again after the negative acknowledgement


class Channel:
    """Loses, delays and doubles packets and answers at random."""

    def __init__(self, recovery: Recovery, packets: int, seed: int) -> None:
        self.recovery, self.draw = recovery, random.Random(seed)
        self.accepted = [0] * packets
        self.serial = 0

    def run(self, in_order: bool) -> None:
        """Until nothing is pending; answers that are lost for good are made up for by timeouts."""
        recovery, draw = self.recovery, self.draw
        there: list[tuple[int, int]] = []
        back: list[tuple[bool, int, int, int]] = []
        for _ in range(20_000):
            assert recovery.in_flight >= 0
            action = draw.random()
            if action < 0.4 and recovery.pending() and recovery.in_flight < 8:
                there.append((recovery.take(self.serial), self.serial))
                self.serial += 1
            elif action < 0.7 and there:
                sequence, serial = there.pop(0 if in_order else draw.randrange(len(there)))
                if draw.random() < 0.8:
                    reply = recovery.received(sequence)
                    self.accepted[sequence] += reply.accepted
                    if reply.refusal is not None and draw.random() < 0.9:
                        back.append((reply.refusal, sequence, serial, reply.expected))
            elif action < 0.98 and back:
                refusal, *news = back.pop(0 if in_order else draw.randrange(len(back)))
                settle = recovery.refused if refusal else recovery.acknowledged
                assert 0 <= settle(*news) <= len(self.accepted)
            elif action >= 0.98 and recovery.in_flight:
                recovery.timed_out()
                assert recovery.in_flight == 0
            if not recovery.pending() and not recovery.in_flight:
                return
        raise AssertionError("does not end")


@each("in_order", [True, False])
@each("seed", range(20))
@each("build", [GoBackN, Selective, lambda packets: Selective(packets, 0)])
def test_any_channel_delivers_every_packet_exactly_once(build, seed, in_order):
    packets = random.Random(seed).randint(1, 60)
    channel = Channel(build(packets), packets, seed)
    channel.run(in_order)
    assert channel.accepted == [1] * packets
