"""Priority flow control and trimming: nothing is lost, and what that costs."""

import json
import random
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from netsim.engine.event.engine import EventEngine
from netsim.engine.protocol import Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.foundation.refusal import Refusal
from netsim.foundation.units import service_ps
from netsim.topology.graph import Graph, GraphConfig
from netsim.topology.torus import Torus, TorusConfig
from netsim.transport.switched import JoinShortestQueue
from tests.each import each
from tests.netsim.closed_loop import PACKET_TRANSPORTS, HeldEngine, WatchedEngine, controlled, random_traffic, run
from tests.netsim.scenes import fabric, flow, scene
from tests.pairwise import pairwise_cover

SERVICE, DELAY = 320_000, 500_000  # 4000 B at 100 Gbps; 500 ns
NEVER_PAUSES = {"kind": "pfc", "pause_above": "1TB", "resume_at": "0B"}
TIGHT = {"kind": "pfc", "pause_above": "12KB", "resume_at": "8KB"}


MARKED = {"kind": "dctcp", "mark_above": "8KB"}
LANES = ["control", "data"]


@each(
    "transport, congestion, lane",
    pairwise_cover(PACKET_TRANSPORTS, [{"kind": "none"}, MARKED, {"kind": "swift"}], LANES),
)
def test_thresholds_that_are_never_reached_equal_plain_queues_to_the_picosecond(transport, congestion, lane):
    seed = PACKET_TRANSPORTS.index(transport)
    what = controlled(random_traffic(seed), congestion=congestion, acknowledgement={"lane": lane})
    paused = controlled(what, flow_control=NEVER_PAUSES)
    assert run(paused, transport, seed).equals(run(what, transport, seed))


def test_with_its_own_headroom_nothing_is_ever_lost():
    """Random incasts over tight thresholds, with any congestion control, acknowledgements in either lane."""
    stopped: Counter[str] = Counter()
    parts = PACKET_TRANSPORTS, [1, 4000, 9000, 30_000], [{"kind": "none"}, {"kind": "window"}, MARKED], LANES
    for seed, (transport, above, congestion, lane) in enumerate(pairwise_cover(*parts)):
        thresholds = {"kind": "pfc", "pause_above": f"{above}B", "resume_at": f"{above // 2}B"}
        sections = {"flow_control": thresholds, "congestion": congestion, "acknowledgement": {"lane": lane}}
        outcome = HeldEngine(controlled(random_traffic(seed), **sections), transport, seed).run()
        assert outcome.losses.dropped == outcome.losses.retransmitted == 0
        stopped[str(transport)] += outcome.links.paused_ps.sum()
    assert len(stopped) == len(PACKET_TRANSPORTS)
    assert min(stopped.values()) > 0


@each("delay, rate", product(["0ns", "500ns", "3us"], ["100Gbps", "10Gbps"]))
def test_an_incast_keeps_the_receivers_link_busy_and_hosts_wait(delay, rate):
    """The last link serves all packets without a pause if what is held covers the route of the word to go on."""
    senders, packets = 5, 60
    topology = fabric(1, 1, senders + 1, link_delay=delay, host_rate=rate)
    tasks = [flow(src, senders, packets * 4000) for src in range(senders)]
    thresholds = {"kind": "pfc", "pause_above": "100KB", "resume_at": "90KB"}
    outcome = HeldEngine(controlled(scene(topology, tasks), flow_control=thresholds)).run()
    plain = run(scene(topology, tasks))
    assert outcome.completion_ps == plain.completion_ps
    assert outcome.losses.dropped == 0
    assert (outcome.links["paused_ps"][:senders] > 0).all()
    assert outcome.links.max_queue_ps.max() < plain.links.max_queue_ps.max()


def test_headroom_is_as_large_as_it_must_be():
    """Without headroom the same incast loses packets; half of the automatic one is too little as well."""
    topology = fabric(1, 1, 3, link_delay="5us")
    tasks = [flow(src, 2, 400_000) for src in range(2)]
    recovery = {"kind": "selective", "timeout": "200us"}
    on_its_route = 2 * 5 * 10**6 * 100 * 10**9 // (8 * 10**12)
    lost = {}
    for headroom in (0, on_its_route // 2, on_its_route + 8000):
        thresholds = TIGHT | {"headroom": f"{headroom}B"}
        outcome = WatchedEngine(controlled(scene(topology, tasks), flow_control=thresholds, recovery=recovery)).run()
        lost[headroom] = outcome.losses.dropped
    assert lost[0] > lost[on_its_route // 2] > lost[on_its_route + 8000] == 0


def test_what_waits_behind_an_incast_is_blocked_though_its_own_route_is_free():
    """The fabric has room for all, one host's link has not; only pauses make its neighbour suffer."""
    topology = fabric(3, 1, 3, fabric_rate="400Gbps")
    start_ps = 20 * 10**6
    incast, victim = [flow(src, 6, 1_000_000) for src in (0, 3, 4)], flow(1, 7, 40_000, start_ps)
    took = {}
    for kind, thresholds in (("none", {"kind": "none"}), ("pfc", TIGHT)):
        outcome = run(controlled(scene(topology, [*incast, victim]), flow_control=thresholds))
        took[kind] = outcome.task_end_ps[3] - start_ps
    fast = service_ps(4000, 400 * 10**9)
    alone = 11 * SERVICE + 2 * fast + 4 * DELAY
    assert alone <= took["none"] <= alone + 8 * fast
    assert took["pfc"] > 3 * alone


def circle(tmp_path: Path) -> Graph:
    """Five switches in a ring, a host at each."""
    nodes = [{"id": f"h{n}", "kind": "host"} for n in range(5)] + [{"id": f"s{n}", "kind": "switch"} for n in range(5)]
    ends = [(f"h{n}", f"s{n}") for n in range(5)] + [(f"s{n}", f"s{(n + 1) % 5}") for n in range(5)]
    links = [{"source": one, "target": other, "rate": "100Gbps", "delay": "100ns"} for one, other in ends]
    path = tmp_path / "circle.json"
    path.write_text(json.dumps({"nodes": nodes, "links": links}))
    return Graph(GraphConfig.model_validate({"kind": "graph", "path": str(path)}))


def around(topology: Graph, packets: int) -> Scene:
    """Every host sends to the one two switches on, so that each link of the circle feeds the next."""
    tasks = [flow(src, (src + 2) % 5, packets * 4000) for src in range(5)]
    return scene(topology, tasks)


@each("recovery", [{"kind": "none"}, {"kind": "go_back_n", "timeout": "50us"}])
def test_links_that_stop_each_other_in_a_circle_are_one_clear_error(tmp_path, recovery):
    topology = circle(tmp_path)
    what = controlled(around(topology, 200), flow_control=TIGHT, recovery=recovery)
    with pytest.raises(Refusal, match=r"flow_control: 5 messages never arrive.*circle"):
        run(what)


def test_the_same_circle_ends_with_wide_thresholds_or_without_pauses(tmp_path):
    what = around(circle(tmp_path), 200)
    wide = {"kind": "pfc", "pause_above": "10MB", "resume_at": "9MB"}
    assert run(controlled(what, flow_control=wide)).equals(run(what))


TRIM = {"flow_control": {"kind": "trim"}, "recovery": {"kind": "selective", "timeout": "1ms"}}


def test_what_is_trimmed_goes_again_and_nothing_else():
    """Acknowledgements in the data lane may be lost, so only there a timeout may repeat more."""
    trimmed: Counter[str] = Counter()
    controls = [{"kind": "none"}, {"kind": "window"}, MARKED, {"kind": "swift"}]
    for transport, congestion, lane, seed in pairwise_cover(PACKET_TRANSPORTS, controls, LANES, range(4)):
        sections = {"congestion": congestion, "acknowledgement": {"lane": lane}, **TRIM}
        what = controlled(random_traffic(seed), queue="16KB", **sections)
        outcome = WatchedEngine(what, transport, seed).run()
        losses = outcome.losses
        assert losses.retransmitted == losses.trimmed if lane == "control" else losses.retransmitted >= losses.trimmed
        assert losses.dropped == 0 or lane == "data"
        trimmed[str(transport)] += losses.trimmed
        rates = [link.rate_bps for link in what.topology.links]
        at_switch = [not link.src.startswith("host") for link in what.topology.links]
        room = np.array([service_ps(16_000, rate) for rate in rates])
        assert (outcome.links.max_queue_ps <= room)[at_switch].all()
    assert len(trimmed) == len(PACKET_TRANSPORTS)
    assert min(trimmed.values()) > 0


def test_a_trimmed_incast_is_limited_by_the_receivers_link():
    """Senders hear of trimmed packets at once, so the last link never idles for a timeout."""
    topology = fabric(1, 1, 9)
    tasks = [flow(src, 8, 40 * 4000) for src in range(8)]
    congestion = {"kind": "dctcp", "mark_above": "16KB"}
    outcome = run(controlled(scene(topology, tasks), queue="40KB", congestion=congestion, **TRIM))
    ideal = 2 * DELAY + (8 * 40 + 1) * SERVICE
    assert outcome.losses.trimmed > 0
    assert ideal <= outcome.completion_ps < 1.05 * ideal


@each("seed", range(10))
def test_a_queue_without_end_never_trims(seed):
    what = random_traffic(seed)
    vast = controlled(what, queue="1GB", **TRIM)
    assert np.array_equal(run(vast, "spray_random", seed).flows, run(what, "spray_random", seed).flows)


@each("seed", range(1, 4))
def test_words_that_take_no_time_meet_transmissions_that_end_in_the_same_instant(seed):
    """Links without delay: the order of links decides whether a word comes before the end of a transmission."""
    draw = random.Random(seed)
    shape = {"kind": "torus", "dims": [2, 3], "hosts_per_switch": 2, "link_delay": "0ns"}
    topology = Torus(TorusConfig.model_validate(shape))
    ends = [draw.sample(range(12), 2) for _ in range(40)]
    tasks = [flow(src, dst, draw.randint(10_000, 60_000), draw.choice([0, 1000])) for src, dst in ends]
    tasks = [task._replace(traffic_class=index % 2) for index, task in enumerate(tasks)]
    pauses = {"kind": "pfc", "pause_above": "1B", "resume_at": "0B"}
    what = controlled(scene(topology, tasks), flow_control=pauses, acknowledgement={"lane": "data"})
    what = what._replace(classes=2)
    expected = ReferenceEngine(what, JoinShortestQueue(seed, what.most_paths), seed).run()
    assert EventEngine(what, JoinShortestQueue(seed, what.most_paths), seed).run().equals(expected)
