"""The event engine simulates what the reference engine simulates, to the last bit."""

import json
from pathlib import Path
from random import Random

import pytest

from netsim.congestion.credit import NdpConfig, ReceiverCreditConfig
from netsim.congestion.dctcp import DctcpConfig
from netsim.congestion.flow_control import AcknowledgementConfig, NoFlowControlConfig, TrimConfig
from netsim.congestion.nscc import NsccConfig
from netsim.congestion.recovery import GoBackNConfig, SelectiveConfig
from netsim.congestion.swift import SwiftConfig
from netsim.congestion.window import NoneConfig, WindowConfig
from netsim.engine.event.engine import EventEngine
from netsim.engine.event.refusal import refusal
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.foundation.refusal import Refusal
from netsim.topology.dragonfly import Dragonfly, DragonflyConfig
from netsim.topology.failure import FailureConfig
from netsim.topology.graph import Graph, GraphConfig
from netsim.transport.build import PACKET_TRANSPORTS
from netsim.transport.ecmp import Ecmp
from netsim.transport.reps import Reps
from netsim.workload.tasks import Task
from tests.netsim.random_scenes import OPTIONS, quick_dcqcn, random_scene, transport_of
from tests.netsim.scenes import all_to_all, fabric, flow, scene

HOSTS = 8
PATTERNS = {
    "all_to_all": all_to_all(HOSTS, 20_000),
    "incast": [flow(src, 0, 80_000) for src in range(1, HOSTS)],
    "permutation": [flow(src, (src + 3) % HOSTS, 120_000) for src in range(HOSTS)],
    "ring": [
        Task(rank, (rank + 1) % HOSTS, 24_001, 0, ((step - 1) * HOSTS + (rank - 1) % HOSTS,) if step else ())
        for step in range(4)
        for rank in range(HOSTS)
    ],
}
DCTCP = DctcpConfig.model_validate({"kind": "dctcp", "mark_above": "8KB"})
SELECTIVE = SelectiveConfig.model_validate({"kind": "selective", "timeout": "30us", "reordering": 16})
CONGESTION = {
    "none": NoneConfig(),
    "window": WindowConfig(kind="window", window=12),
    "dctcp": DCTCP,
    "dcqcn": quick_dcqcn(),
    "swift": SwiftConfig.model_validate({"kind": "swift", "queueing": "1us"}),
    "swift_paced": SwiftConfig.model_validate({"kind": "swift", "queueing": "0us", "smallest_window": 0.3}),
    "swift_scaled": SwiftConfig.model_validate(
        {"kind": "swift", "queueing": "1us", "hop_scaling": "100ns", "flow_scaling": "6us"}
    ),
    "nscc": NsccConfig(kind="nscc"),
    "receiver_credit": ReceiverCreditConfig(kind="receiver_credit"),
    "ndp": NdpConfig(kind="ndp", window=5),
}
RECOVERY = {
    "go_back_n": GoBackNConfig.model_validate({"kind": "go_back_n", "timeout": "30us"}),
    "selective": SELECTIVE,
    "timeouts_only": SelectiveConfig.model_validate({"kind": "selective", "timeout": "30us"}),
}


def both(what: Scene, transport: str, seed: int = 0) -> Outcome:
    """The run of either engine, which is the same."""
    make = transport_of(transport, Random(seed), seed, what.most_paths)
    assert refusal(what, make()) is None
    expected = ReferenceEngine(what, make(), seed).run()
    found = EventEngine(what, make(), seed).run()
    assert found.equals(expected)
    return found


def _end(engine: ReferenceEngine | EventEngine) -> Outcome | str:
    """What a run was, or why it never ends."""
    try:
        return engine.run()
    except Refusal as error:
        return str(error)


def test_every_packet_transport_is_among_those_compared():
    assert OPTIONS.keys() == PACKET_TRANSPORTS.keys()


@pytest.mark.parametrize("transport", OPTIONS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_closed_loop(transport, pattern):
    what = scene(fabric(4, 4, 2), PATTERNS[pattern])
    both(what, transport)
    assert both(what._replace(congestion=DCTCP), transport, seed=1).control_hops > 0


@pytest.mark.parametrize("transport", OPTIONS)
def test_drops_and_what_goes_again(transport):
    what = scene(fabric(4, 4, 2), PATTERNS["incast"])
    outcome = both(what._replace(congestion=DCTCP, recovery=SELECTIVE, queue_bytes=16_000), transport)
    assert outcome.losses.dropped > 0
    assert outcome.losses.retransmitted > 0


@pytest.mark.parametrize("lane", ["control", "data"])
@pytest.mark.parametrize("recovery", RECOVERY)
@pytest.mark.parametrize("congestion", CONGESTION)
def test_congestion_control_and_recovery(congestion, recovery, lane):
    what = scene(fabric(4, 2, 2), PATTERNS["incast"])._replace(
        queue_bytes=24_000,
        congestion=CONGESTION[congestion],
        recovery=RECOVERY[recovery],
        acknowledgement=AcknowledgementConfig(lane=lane),
    )
    outcome = both(what, "spray_random")
    assert outcome.losses.dropped > 0
    if congestion in ("dctcp", "dcqcn"):
        assert outcome.losses.marked > 0


@pytest.mark.parametrize("congestion", CONGESTION)
@pytest.mark.parametrize("recovery", [None, "selective", "go_back_n"])
def test_trimming(congestion, recovery):
    what = scene(fabric(4, 2, 2), PATTERNS["incast"])._replace(
        queue_bytes=24_000, congestion=CONGESTION[congestion], flow_control=TrimConfig(kind="trim")
    )
    if recovery == "selective":
        what = what._replace(acknowledgement=AcknowledgementConfig(lane="priority"))
    outcome = both(what._replace(recovery=RECOVERY[recovery]) if recovery else what, "drb")
    assert outcome.losses.trimmed > 0


@pytest.mark.parametrize("rate", [0, "20Gbps"])
@pytest.mark.parametrize(
    "transport", ["ecmp", "ethereal", "reps", "jsq", "drill", "adaptive_flow", "spray_round_robin"]
)
def test_failures_while_packets_are_under_way(transport, rate):
    failure = {"switch": "spine1", "at": "3us", "until": "40us", "rate": rate, "noticed_after": "10us"}
    what = scene(fabric(4, 4, 2), PATTERNS["all_to_all"], failures=[FailureConfig.model_validate(failure)])
    outcome = both(what._replace(congestion=DCTCP, recovery=SELECTIVE), transport)
    assert (outcome.losses.dropped > 0) == (rate == 0)


def cabled_at_random(random: Random, folder: Path) -> Graph:
    """Three leaves and four spines of which some are not connected: links come in any order, choices differ."""
    leaves, spines = "abc", "stuv"
    hosts = [(f"h{number}", leaves[number // 2]) for number in range(6)]
    between = [(leaf, spine) for leaf in leaves for spine in spines if spine == "s" or random.random() < 0.8]
    cables = hosts + [cable[:: random.choice([1, -1])] for cable in random.sample(between, len(between))]
    nodes = [{"id": name, "kind": "switch"} for name in leaves + spines]
    nodes += [{"id": name, "kind": "host"} for name, _ in hosts]
    links = [{"source": src, "target": dst, "rate": "100Gbps", "delay": "500ns"} for src, dst in cables]
    file = folder / "fabric.json"
    file.write_text(json.dumps({"nodes": nodes, "links": links}))
    return Graph(GraphConfig(kind="graph", path=str(file)))


@pytest.mark.parametrize("transport", ["jsq", "drill", "adaptive_flow"])
@pytest.mark.parametrize("seed", range(4))
def test_choices_of_switches_that_change(seed, transport, tmp_path):
    """The links of a choice differ from receiver to receiver, and when the routing learns of a failure."""
    random = Random(seed)
    topology = cabled_at_random(random, tmp_path)
    names = [link.name for link in topology.links if not link.src.startswith("host")]
    down = {"until": "60us", "noticed_after": "2us"}
    for failures in ([], [{"link": random.choice(names), "at": f"{n}us", **down} for n in (5, 20)]):
        what = scene(topology, all_to_all(6, 60_000), failures=[FailureConfig.model_validate(f) for f in failures])
        both(what._replace(congestion=DCTCP, recovery=SELECTIVE), transport, seed)


@pytest.mark.parametrize("seed", range(4))
def test_frozen_rings_of_which_entries_fail(seed):
    """Two spines fail for good; when the second does, flows are frozen for what they lost in the full queues."""
    spines = [{"switch": f"spine{n}", "at": f"{5 + 40 * n}us", "noticed_after": "1us"} for n in range(2)]
    tasks = [flow(src, 0, 133_000) for src in range(1, HOSTS)]
    what = scene(fabric(4, 4, 2), tasks, failures=[FailureConfig.model_validate(entry) for entry in spines])
    what = what._replace(congestion=CONGESTION["window"], recovery=SELECTIVE, queue_bytes=16_000)
    expected, found = (
        engine(what, Reps(seed, what.most_paths, cache=8, freeze=10**9, mark_above=8000), seed).run()
        for engine in (ReferenceEngine, EventEngine)
    )
    assert found.equals(expected)
    assert found.losses.retransmitted > 0


@pytest.mark.parametrize("seed", range(60))
def test_random_scenes(seed):
    random = Random(seed)
    what = random_scene(random)
    make = transport_of([*OPTIONS][seed % len(OPTIONS)], random, seed, what.most_paths)
    expected, found = (_end(engine(what, make(), seed)) for engine in (ReferenceEngine, EventEngine))
    assert found.equals(expected) if isinstance(expected, Outcome) and isinstance(found, Outcome) else found == expected


@pytest.mark.parametrize("kind", ["nscc", "dctcp", "swift", "dcqcn"])
@pytest.mark.parametrize("transport", ["reps", "subflows", "ecmp"])
def test_state_of_queue_pairs(kind, transport):
    """Messages between the same ranks, some of which overlap, and two ranks a host."""
    control = CONGESTION[kind].model_copy(update={"state": "queue_pair"})
    tasks = [flow(src, turn % 3 // 2, 60_000, 90_000_000 * turn) for turn in range(3) for src in range(3, 8)]
    what = scene(fabric(2, 2, 2, ranks_per_host=2), tasks)
    what = what._replace(congestion=control, recovery=SELECTIVE, queue_bytes=24_000)
    kept = both(what, transport)
    fresh = both(what._replace(congestion=CONGESTION[kind].model_copy(update={"state": "message"})), transport)
    assert (kept.task_end_ps != fresh.task_end_ps).any()


@pytest.mark.parametrize("seed", range(3))
def test_latest_of_two_messages_that_begin_together(seed):
    """The third message goes on from where the later of the first two in its host's ring stands."""
    control = CONGESTION["dctcp"].model_copy(update={"state": "queue_pair"})
    others = [flow(src, 4, 80_000) for src in range(1, 4)]
    tasks = [flow(0, 4, 200_000), flow(0, 4, 12_000), *others, Task(0, 4, 160_000, 0, (0, 1))]
    what = scene(fabric(2, 2, 4), tasks)
    both(what._replace(congestion=control, recovery=SELECTIVE, queue_bytes=24_000), "ecmp", seed)


@pytest.mark.parametrize("kind", ["ndp", "receiver_credit"])
@pytest.mark.parametrize("transport", ["ecmp", "drill"])
def test_credits_go_back_on_paths_of_any_length(kind, transport):
    """Two groups with two links between them: minimal paths of three and of five links."""
    shape = {"kind": "dragonfly", "groups": 2, "switches_per_group": 2, "global_links": 1, "hosts_per_switch": 1}
    what = scene(Dragonfly(DragonflyConfig.model_validate(shape)), all_to_all(4, 60_000))
    both(what._replace(congestion=CONGESTION[kind], recovery=SELECTIVE), transport)


def test_more_packets_and_choices_than_there_is_room_for_at_first():
    topology = fabric(10, 2, 4)
    assert both(scene(topology, all_to_all(40, 4000)), "adaptive_flow").packets == 40 * 39
    crowd = scene(topology, [flow(src, 0, 200_000) for src in range(1, 40)])
    assert both(crowd, "spray_random").links.max_queue_ps.max() > 1024 * 320_000


def test_losses_for_good_are_told_in_the_same_words():
    what = scene(fabric(2, 2, 4), PATTERNS["incast"])._replace(queue_bytes=8000)
    expected, found = (_end(engine(what, Ecmp(0, what.most_paths), 0)) for engine in (ReferenceEngine, EventEngine))
    assert "never arrive" in str(found)
    assert found == expected


def test_lost_background_traffic_is_not_among_the_messages_that_never_arrive():
    noise = [flow(src, 0, 80_000)._replace(background=True) for src in range(1, 5)]
    what = scene(fabric(2, 2, 4), [*PATTERNS["incast"], *noise])._replace(queue_bytes=8000)
    expected, found = (_end(engine(what, Ecmp(0, what.most_paths), 0)) for engine in (ReferenceEngine, EventEngine))
    assert "6 messages never arrive" in str(expected)
    assert found == expected


@pytest.mark.parametrize("fruitless", range(9, 14))
def test_patience_that_ends_while_the_last_packet_is_under_way(fruitless):
    """The event engine knows of arrivals early, and must not take a packet on the last link for one that has come."""
    what = scene(fabric(2, 2, 2, link_delay="3us"), [flow(0, 2, 1000)])
    keys = {"kind": "selective", "timeout": "500ns", "shortest_timeout": "1us", "longest_timeout": "1us"}
    limits = what.limits.model_copy(update={"fruitless": fruitless})
    hasty = what._replace(recovery=SelectiveConfig.model_validate(keys), limits=limits)
    expected, found = (_end(engine(hasty, Ecmp(0, 2), 0)) for engine in (ReferenceEngine, EventEngine))
    assert (fruitless < 13) == isinstance(expected, str)
    assert found.equals(expected) if isinstance(expected, Outcome) and isinstance(found, Outcome) else found == expected


class OwnTransport(Ecmp):
    """A transport of the user's."""


def test_refuses_what_it_does_not_simulate():
    what = scene(fabric(2, 2, 1), [flow(0, 1, 1)])
    assert "own" in str(refusal(what, OwnTransport(0, 2)))
    assert "packets" in str(refusal(scene(fabric(2, 2, 1), [flow(0, 1, 10**12)], payload="1B"), Ecmp(0, 2)))
    assert refusal(what._replace(flow_control=NoFlowControlConfig()), Ecmp(0, 2)) is None
