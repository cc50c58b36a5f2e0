"""The event and the windowed engine, on any number of threads, simulate what the reference engine does, to the bit."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from netsim.congestion.flow_control import AcknowledgementConfig, TrimConfig
from netsim.congestion.nscc import NsccConfig
from netsim.congestion.recovery import SelectiveConfig
from netsim.congestion.swift import SwiftConfig
from netsim.engine.event.refusal import refusal
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.watch import WatchConfig
from netsim.topology.cabled import WithDetours
from netsim.topology.dragonfly import Dragonfly, DragonflyConfig
from netsim.topology.failure import FailureConfig
from netsim.topology.graph import Graph, GraphConfig
from netsim.transport.build import PACKET_TRANSPORTS
from netsim.transport.ecmp import Ecmp
from netsim.transport.reps import Reps
from netsim.workload.tasks import Task
from tests.each import each
from tests.netsim.agreement import CONGESTION, DCTCP, HOSTS, PATTERNS, RECOVERY, SELECTIVE, agreed, end_of, ran
from tests.netsim.random_scenes import (
    OPTIONS,
    has_paths,
    random_scene,
    transport_of,
    with_background,
    with_errors,
    with_queues,
    with_shared_draws,
)
from tests.netsim.scenes import all_to_all, fabric, flow, scene
from tests.pairwise import pairwise_cover

SPLIT = [name for name in OPTIONS if name != "adaptive_flow"]
"""Transports that several threads may share."""


def test_every_packet_transport_is_among_those_compared():
    assert OPTIONS.keys() == PACKET_TRANSPORTS.keys()


@each("transport", OPTIONS)
def test_closed_loop(transport: str):
    for tasks in PATTERNS.values():
        what = scene(fabric(4, 4, 2), tasks)
        ran(what, transport)
        assert ran(what._replace(congestion=DCTCP), transport, seed=1).control_hops > 0


@each("transport", OPTIONS)
def test_drops_and_what_goes_again(transport: str):
    threads = ["2"] if transport in SPLIT else []
    wide = scene(fabric(4, 4, 2), PATTERNS["incast"])._replace(congestion=DCTCP)
    narrow = scene(fabric(4, 2, 1), [flow(src, 0, 60_000) for src in range(1, 4)])
    for what, also in ((wide, []), (narrow, threads)):
        outcome = ran(what._replace(recovery=SELECTIVE, queue_bytes=16_000), transport, also=also)
        assert outcome.losses.dropped > 0
        assert outcome.losses.retransmitted > 0


@each("congestion, recovery, lane", pairwise_cover(CONGESTION, RECOVERY, ["control", "data"]))
def test_congestion_control_and_recovery(congestion: str, recovery: str, lane: str):
    answers = AcknowledgementConfig.model_validate({"lane": lane})
    what = scene(fabric(4, 2, 2), PATTERNS["incast"])._replace(
        queue_bytes=24_000, congestion=CONGESTION[congestion], recovery=RECOVERY[recovery], acknowledgement=answers
    )
    outcome = ran(what, "spray_random")
    assert outcome.losses.dropped > 0
    assert outcome.losses.marked > 0 or congestion not in ("dctcp", "dcqcn")


@each("congestion, recovery", pairwise_cover(CONGESTION, [None, "selective", "go_back_n"]))
def test_trimming(congestion: str, recovery: str | None):
    what = scene(fabric(4, 2, 2), PATTERNS["incast"])._replace(
        queue_bytes=24_000, congestion=CONGESTION[congestion], flow_control=TrimConfig(kind="trim")
    )
    if recovery == "selective":
        what = what._replace(acknowledgement=AcknowledgementConfig(lane="priority"))
    assert ran(what._replace(recovery=RECOVERY[recovery]) if recovery else what, "drb").losses.trimmed > 0


def spine_down(**changes: object) -> FailureConfig:
    down = {"switch": "spine1", "at": "3us", "until": "40us", "noticed_after": "10us"}
    return FailureConfig.model_validate(down | changes)


@each("transport", ["ecmp", "ethereal", "reps", "jsq", "drill", "adaptive_flow", "spray_round_robin"])
def test_failures_while_packets_are_under_way(transport: str):
    for rate in (0, "20Gbps"):
        what = scene(fabric(4, 4, 2), PATTERNS["all_to_all"], failures=[spine_down(rate=rate)])
        outcome = ran(what._replace(congestion=DCTCP, recovery=SELECTIVE), transport)
        assert (outcome.losses.dropped > 0) == (rate == 0)


@each("congestion", CONGESTION)
def test_a_spine_that_fails_for_a_while(congestion: str):
    what = scene(fabric(4, 3, 2), PATTERNS["all_to_all"], failures=[spine_down()])
    ran(what._replace(congestion=CONGESTION[congestion], recovery=SELECTIVE), "ethereal", also=["2"])


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


@each("transport", ["jsq", "drill", "adaptive_flow"])
def test_choices_of_switches_that_change(transport: str, tmp_path: Path):
    """The links of a choice differ from receiver to receiver, and when the routing learns of a failure."""
    for seed in range(4):
        random = Random(seed)
        topology = cabled_at_random(random, tmp_path)
        names = [link.name for link in topology.links if not link.src.startswith("host")]
        down = {"until": "60us", "noticed_after": "2us"}
        for failures in ([], [{"link": random.choice(names), "at": f"{n}us", **down} for n in (5, 20)]):
            what = scene(topology, all_to_all(6, 60_000), failures=[FailureConfig.model_validate(f) for f in failures])
            ran(what._replace(congestion=DCTCP, recovery=SELECTIVE), transport, seed)


@each("seed", range(4))
def test_frozen_rings_of_which_entries_fail(seed: int):
    """Two spines fail for good; when the second does, flows are frozen for what they lost in the full queues."""
    spines = [{"switch": f"spine{n}", "at": f"{5 + 40 * n}us", "noticed_after": "1us"} for n in range(2)]
    tasks = [flow(src, 0, 133_000) for src in range(1, HOSTS)]
    what = scene(fabric(4, 4, 2), tasks, failures=[FailureConfig.model_validate(entry) for entry in spines])
    what = what._replace(congestion=CONGESTION["window"], recovery=SELECTIVE, queue_bytes=16_000)
    found = agreed(what, lambda: Reps(seed, what.most_paths, cache=8, freeze=10**9, mark_above=8000), seed)
    assert isinstance(found, Outcome)
    assert found.losses.retransmitted > 0


@each("kind, transport", pairwise_cover(["nscc", "dctcp", "swift", "dcqcn"], ["reps", "subflows", "ecmp"]))
def test_state_of_queue_pairs(kind: str, transport: str):
    """Messages between the same ranks, some of which overlap, and two ranks a host."""
    tasks = [flow(src, turn % 3 // 2, 60_000, 90_000_000 * turn) for turn in range(3) for src in range(3, 8)]
    what = scene(fabric(2, 2, 2, ranks_per_host=2), tasks)._replace(recovery=SELECTIVE, queue_bytes=24_000)
    kept, fresh = (
        ran(what._replace(congestion=CONGESTION[kind].model_copy(update={"state": state})), transport)
        for state in ("queue_pair", "message")
    )
    assert (kept.task_end_ps != fresh.task_end_ps).any()


@each("seed", range(3))
def test_latest_of_two_messages_that_begin_together(seed: int):
    """The third message goes on from where the later of the first two in its host's ring stands."""
    control = DCTCP.model_copy(update={"state": "queue_pair"})
    others = [flow(src, 4, 80_000) for src in range(1, 4)]
    tasks = [flow(0, 4, 200_000), flow(0, 4, 12_000), *others, Task(0, 4, 160_000, 0, (0, 1))]
    what = scene(fabric(2, 2, 4), tasks)
    ran(what._replace(congestion=control, recovery=SELECTIVE, queue_bytes=24_000), "ecmp", seed)


@each("kind, transport", pairwise_cover(["ndp", "receiver_credit"], ["ecmp", "drill"]))
def test_credits_go_back_on_paths_of_any_length(kind: str, transport: str):
    """Two groups with two links between them: minimal paths of three and of five links."""
    shape = {"kind": "dragonfly", "groups": 2, "switches_per_group": 2, "global_links": 1, "hosts_per_switch": 1}
    what = scene(Dragonfly(DragonflyConfig.model_validate(shape)), all_to_all(4, 60_000))
    ran(what._replace(congestion=CONGESTION[kind], recovery=SELECTIVE), transport)


def test_more_packets_and_choices_than_there_is_room_for_at_first():
    assert ran(scene(fabric(10, 2, 4), all_to_all(40, 4000)), "adaptive_flow").packets == 40 * 39
    crowd = scene(fabric(10, 2, 4), [flow(src, 0, 200_000) for src in range(1, 40)])
    assert ran(crowd, "spray_random").links.max_queue_ps.max() > 1024 * 320_000


def test_losses_for_good_are_told_and_lost_background_traffic_is_not_among_them():
    noise = [flow(src, 0, 80_000)._replace(background=True) for src in range(1, 5)]
    for tasks in (PATTERNS["incast"], [*PATTERNS["incast"], *noise]):
        what = scene(fabric(2, 2, 4), tasks)._replace(queue_bytes=8000)
        assert "6 messages never arrive" in str(agreed(what, lambda paths=what.most_paths: Ecmp(0, paths)))


@each("fruitless", range(9, 14))
def test_patience_that_ends_while_the_last_packet_is_under_way(fruitless: int):
    """The event engine knows of arrivals early, and must not take a packet on the last link for one that has come."""
    what = scene(fabric(2, 2, 2, link_delay="3us"), [flow(0, 2, 1000)])
    keys = {"kind": "selective", "timeout": "500ns", "shortest_timeout": "1us", "longest_timeout": "1us"}
    limits = what.limits.model_copy(update={"fruitless": fruitless})
    hasty = what._replace(recovery=SelectiveConfig.model_validate(keys), limits=limits)
    assert (fruitless < 13) == isinstance(agreed(hasty, lambda: Ecmp(0, 2)), str)


@each("first", range(4))
def test_the_flow_that_first_loses_its_patience_is_named(first: int):
    """One host begins 100 ns before the others, which are in the same window when it gives up."""
    failures = [FailureConfig.model_validate({"switch": f"spine{n}", "at": "10us", "until": "10ms"}) for n in (0, 1)]
    tasks = [task._replace(delay_ps=0 if task.src == first else 100_000) for task in all_to_all(4, 90_000)]
    what = scene(fabric(2, 2, 2), [*tasks, flow(0, 1, 1_000_000)], failures=failures)._replace(recovery=SELECTIVE)
    limited = what._replace(limits=what.limits.model_copy(update={"fruitless": 5}))
    assert "after 5 timeouts" in str(agreed(limited, lambda: Ecmp(0, limited.most_paths)))


@each("kind", ["ecmp", "spray_random", "subflows", "jsq"])
def test_every_engine_records_the_same_over_time(kind: str):
    watch = WatchConfig(flows=((0, 5), (3, 1)))
    what = scene(fabric(2, 2, 4), all_to_all(8, 60_000))._replace(recovery=SelectiveConfig(kind="selective"))
    for congestion in (DCTCP, SwiftConfig(kind="swift"), CONGESTION["nscc"]):
        lossy = what._replace(congestion=congestion, queue_bytes=40_000, watch=watch)
        options = {"count": 3} if kind == "subflows" else {}
        first, *others = (
            end_of(engine, lossy, lambda: PACKET_TRANSPORTS[kind](0, 2, **options))  # noqa: B023
            for engine in ("simpy", "event", "windowed")
        )
        assert isinstance(first, Outcome)
        assert first.watched is not None
        assert [len(samples) > 0 for samples in first.watched.samples] == [True, True]
        for other in others:
            assert isinstance(other, Outcome)
            assert other.equals(first)
            assert other.watched is not None
            assert other.watched.equals(first.watched)


class OwnTransport(Ecmp):
    """A transport of the user's."""


def test_the_event_engine_refuses_what_it_does_not_simulate():
    what = scene(fabric(2, 2, 1), [flow(0, 1, 1)])
    assert "own" in str(refusal(what, OwnTransport(0, 2)))
    assert "packets" in str(refusal(scene(fabric(2, 2, 1), [flow(0, 1, 10**12)], payload="1B"), Ecmp(0, 2)))
    assert refusal(what, Ecmp(0, 2)) is None


Vary = Callable[[Random, Scene], Scene]


def _plain(_: Random, what: Scene) -> Scene:
    return what


def _with_shared(random: Random, what: Scene) -> Scene:
    return with_shared_draws(random, random.choice([with_errors, with_queues, _plain])(random, what))


def _with_both(random: Random, what: Scene) -> Scene:
    found = with_background(random, what)
    return with_queues(random, found) if random.random() < 0.5 else found


def _with_marks_at_departure(random: Random, what: Scene) -> Scene:
    what = random.choice([_plain, with_queues, _with_both])(random, what)
    control = {"kind": "nscc", "window": 12, "marks": "departure", "mark_from": "6000B", "mark_all": "24000B"}
    return what._replace(congestion=NsccConfig.model_validate(control))


VARIATIONS: dict[str, tuple[Vary, int]] = {
    "as drawn": (_plain, 39),
    "queues": (with_queues, 26),
    "queues and errors": (lambda random, what: with_errors(random, with_queues(random, what)), 13),
    "errors": (with_errors, 13),
    "background traffic": (_with_both, 26),
    "shared draws": (_with_shared, 26),
    "marks of packets that leave": (_with_marks_at_departure, 26),
}
"""What becomes of a random scene, and how many are drawn: each transport several times."""


@each("name", VARIATIONS)
def test_random_scenes(name: str):
    """Half of them in as many regions as switches and hosts can fill, and some on several threads too."""
    vary, number = VARIATIONS[name]
    for seed in range(number):
        random = Random(f"{name} {seed}")
        transport = [*OPTIONS][seed % len(OPTIONS)]
        while True:
            what = vary(random, random_scene(random))
            make = transport_of(transport, random, seed, what.most_paths)
            detours = isinstance(what.topology, WithDetours) and not make().takes_detours
            if has_paths(what) and not detours:
                break
        with pytest.MonkeyPatch.context() as patch:
            if seed // len(OPTIONS) % 2:
                patch.setattr("netsim.engine.windowed.engine.LINKS_OF_REGION", 2)
            try:
                agreed(what, make, seed, also=["2", "3"][seed % 12 : seed % 12 + 1])
            except Exception as error:
                error.add_note(f"{seed=} {transport=}")
                raise
