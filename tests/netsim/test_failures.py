"""Links that fail while traffic is on them: losses, timeouts, other paths, and what the routing learns."""

import random
from collections import Counter
from typing import Any

import pytest

from netsim.engine.protocol import Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.foundation.refusal import Refusal
from netsim.transport.reps import Reps
from tests.each import each
from tests.netsim.closed_loop import (
    PACKET_TRANSPORTS,
    HeldEngine,
    WatchedEngine,
    failing,
    random_traffic,
    run,
)
from tests.netsim.scenes import fabric, flow, scene
from tests.pairwise import pairwise_cover

SERVICE, DELAY = 320_000, 500_000  # 4000 B at 100 Gbps; 500 ns
MICROSECOND = 10**6
GO_BACK_N = {"kind": "go_back_n", "timeout": "100us"}
SELECTIVE = {"kind": "selective", "timeout": "100us"}


def random_failures(what: Scene, seed: int) -> list[dict[str, Any]]:
    """Cables and switches that go down or slow down now and then, for good only if the routing comes to know."""
    draw = random.Random(seed)
    cables = [link.name for link in what.topology.links if link.src.startswith("leaf") and link.dst.startswith("spine")]
    failures = []
    for _ in range(draw.randint(1, 4)):
        at = draw.randint(1, 30)
        place = draw.choice(
            [{"link": draw.choice(cables)}, {"switch": f"spine{draw.randrange(len(what.topology.tiers[1]))}"}]
        )
        until = at + draw.randint(1, 300)
        rate = draw.choice([0, 0, "10Gbps"])
        noticed = draw.choice(["0us", "20us", "never"])
        failures.append({**place, "at": f"{at}us", "until": f"{until}us", "rate": rate, "noticed_after": noticed})
    return failures


CONGESTION = [{"kind": "none"}, {"kind": "dctcp", "mark_above": "8KB"}, {"kind": "swift"}]


def test_everything_arrives_in_the_end():
    """Five scenes for every transport, with every recovery, congestion control and lane of the answers."""
    lost: Counter[str] = Counter()
    cover = pairwise_cover(PACKET_TRANSPORTS, [GO_BACK_N, SELECTIVE], CONGESTION, ["control", "data"], range(5))
    for transport, recovery, congestion, lane, seed in cover:
        what = random_traffic(seed)
        sections = {"recovery": recovery, "congestion": congestion, "acknowledgement": {"lane": lane}}
        broken = failing(what, *random_failures(what, seed), **sections)
        lost[str(transport)] += WatchedEngine(broken, transport, seed).run().losses.dropped
    assert len(lost) == len(PACKET_TRANSPORTS)
    assert min(lost.values()) > 0


def test_everything_arrives_in_the_end_with_pauses_too():
    pfc = {"kind": "pfc", "pause_above": "12KB", "resume_at": "8KB"}
    cover = pairwise_cover(["ecmp", "spray_random", "jsq", "ethereal"], CONGESTION[:2], range(4))
    for seed, (transport, congestion, _) in enumerate(cover):
        what = random_traffic(seed)
        sections = {"recovery": GO_BACK_N, "congestion": congestion, "flow_control": pfc}
        HeldEngine(failing(what, *random_failures(what, seed), **sections), transport).run()


@each("seed", range(6))
def test_pauses_that_never_come_equal_plain_queues_where_links_fail_too(seed):
    """Losses and times; only the queue behind a packet that is doomed differs, and nobody looks at that here."""
    what = random_traffic(seed)
    failures = random_failures(what, seed)
    never = {"kind": "pfc", "pause_above": "1TB", "resume_at": "0B"}
    plain = run(failing(what, *failures, recovery=GO_BACK_N), "spray_random", seed)
    paused = run(failing(what, *failures, recovery=GO_BACK_N, flow_control=never), "spray_random", seed)
    assert plain.losses == paused.losses
    assert (plain.flows == paused.flows).all()


TWO_SPINES = fabric(2, 2, 1)


def test_a_packet_is_lost_if_its_link_goes_down_before_its_last_bit_has_left():
    """Packet k of one flow is on its leaf's link up for the service that begins (k + 1) services + 1 delay into it."""
    what, packets, recovery = scene(fabric(2, 1, 1), [flow(0, 1, 40_000)]), 10, {"kind": "selective", "timeout": "1ms"}
    names = [link.name for link in what.topology.links]
    for packet in range(packets):
        begins = DELAY + (packet + 1) * SERVICE
        for at, passed in ((begins, packet), (begins + SERVICE - 1, packet), (begins + SERVICE, packet + 1)):
            down = {"link": "leaf0-spine0", "at": f"{at}ps", "until": f"{at + 10**8}ps", "noticed_after": "never"}
            outcome = run(failing(what, down, recovery=recovery))
            carried = outcome.links[names.index("leaf0-spine0")].bytes
            assert carried == 4000 * (passed + outcome.losses.retransmitted)


def test_a_slower_rate_holds_from_the_next_packet_on():
    """The link down to the receiver runs at a quarter of its rate from the fifth packet on."""
    packets, before = 20, 5
    begin = 3 * (SERVICE + DELAY) + before * SERVICE
    slow = {"link": "leaf1-host1", "at": f"{begin}ps", "rate": "25Gbps"}
    outcome = run(failing(scene(TWO_SPINES, [flow(0, 1, packets * 4000)]), slow))
    assert outcome.completion_ps == begin + (packets - before) * 4 * SERVICE + DELAY


def one_down(**more: Any) -> dict[str, Any]:
    return {"link": "leaf0-spine0", "at": "5us", **more}


def test_a_hashed_path_waits_for_the_routing_and_the_next_timeout():
    """ECMP hashes again when the routing has learnt of the failure, 300 us after it."""
    what = scene(TWO_SPINES, [flow(0, 1, 100 * 4000)])
    paths = {}
    for seed in range(8):
        plain = run(what, "ecmp", seed)
        through_spine_0 = plain.links[2 * 2].bytes > 0
        outcome = run(failing(what, one_down(noticed_after="300us"), recovery=GO_BACK_N), "ecmp", seed)
        if through_spine_0:
            assert 305 * MICROSECOND < outcome.completion_ps < 305 * MICROSECOND + 150 * MICROSECOND
        else:
            assert outcome.completion_ps == plain.completion_ps
        paths[through_spine_0] = True
    assert len(paths) == 2


def test_ethereal_moves_after_a_timeout_and_the_routing_need_not_know():
    what = scene(TWO_SPINES, [flow(0, 1, 100 * 4000)])
    broken = failing(what, one_down(noticed_after="never"), recovery=GO_BACK_N)
    outcome = run(broken, "ethereal")
    assert 105 * MICROSECOND < outcome.completion_ps < 200 * MICROSECOND
    unlucky = next(seed for seed in range(100) if run(what, "ecmp", seed).links[2 * 2].bytes)
    with pytest.raises(Refusal, match="never arrive"):
        run(broken, "ecmp", unlucky)


def test_ethereal_avoids_a_path_for_as_long_as_it_is_told():
    """Messages released soon after the failure keep off the bad path; those after its time come back to it."""
    tasks = [flow(0, 1, 40 * 4000), flow(0, 1, 8000, 500 * MICROSECOND), flow(0, 1, 8000, 2000 * MICROSECOND)]
    what = scene(TWO_SPINES, tasks)
    broken = failing(what, one_down(until="400us", noticed_after="never"), recovery=GO_BACK_N)
    engine = WatchedEngine(broken, {"kind": "ethereal", "avoid": "1ms"})
    engine.run()
    pieces = [sorted(c.flow.path or 0 for c in engine._all if c.flow.message.task == task) for task in range(3)]
    assert pieces == [[0, 1], [1], [0, 1]]


@each("recovery", [GO_BACK_N, SELECTIVE], ids=lambda r: r["kind"])
@each("transport", ["ecmp", "mprdma-2", "spray_random", "jsq", "drb", "reps"])
def test_a_host_that_is_cut_off_for_good_is_one_clear_error(transport, recovery):
    """Its only link goes down and stays so: no timeout will help, and the run ends all the same."""
    what = failing(scene(TWO_SPINES, [flow(0, 1, 400_000)]), {"link": "host1-leaf1", "at": "5us"}, recovery=recovery)
    with pytest.raises(Refusal, match="1 messages never arrive, among them one of 400000 B from rank 0 to rank 1"):
        run(what, transport)


def test_a_host_that_is_cut_off_for_a_while_goes_on():
    """Twice as many timeouts as a flow that is cut off for good is granted."""
    what, steady = scene(TWO_SPINES, [flow(0, 1, 400_000)]), GO_BACK_N | {"longest_timeout": "100us"}
    outcome = run(failing(what, {"link": "host1-leaf1", "at": "5us", "until": "13ms"}, recovery=steady))
    assert 13_000 * MICROSECOND < outcome.completion_ps < 13_200 * MICROSECOND


class RecordingReps(Reps):
    """Notes the path of each packet."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.taken: list[tuple[int, int]] = []
        self.froze_ps: list[int] = []

    def choose_path(self, flow, serial, usable, now_ps):
        path = super().choose_path(flow, serial, usable, now_ps)
        self.taken.append((now_ps, path))
        return path

    def on_timeout(self, flow, path, usable, now_ps):
        self.froze_ps.append(now_ps)
        return super().on_timeout(flow, path, usable, now_ps)


def test_reps_freezes_after_a_timeout_and_keeps_off_the_failed_path():
    """Eight spines, one of which fails unnoticed: frozen, the flow uses only paths whose packets came through."""
    what = scene(fabric(2, 8, 1), [flow(0, 1, 600 * 4000)])
    recovery = {"kind": "selective", "timeout": "20us"}
    window = {"kind": "window", "window": 16}
    down = one_down(at="30us", noticed_after="never")
    broken = failing(what, down, recovery=recovery, congestion=window)
    transport = RecordingReps(1, 8, 8, 10**9, 100_000)
    outcome = ReferenceEngine(broken, transport, 1).run()
    frozen = [path for now, path in transport.taken if now > transport.froze_ps[0]]
    before = [path for now, path in transport.taken if now <= 30 * MICROSECOND]
    assert 0 in before
    assert frozen
    assert frozen.count(0) <= 1
    assert outcome.losses.dropped <= 20
