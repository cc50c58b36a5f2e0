"""Paths chosen by switches: the shortest queue, a sample of the queues, the shortest when a flow begins."""

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.topology.failure import Rates
from netsim.topology.fat_tree import FatTree, FatTreeConfig
from netsim.topology.graph import Graph, GraphConfig
from netsim.topology.protocol import Topology
from netsim.topology.routes import Routes
from netsim.transport.protocol import Flow, Transport
from netsim.transport.switched import AdaptiveFlow, Drill, JoinShortestQueue
from netsim.workload.protocol import Task, Tasks
from tests.netsim.releases import Releases
from tests.netsim.scenes import all_to_all, fabric, flow

LINKS: tuple[int, ...] = (7, 8, 9, 10)
RELEASE = Releases(fabric(2, 4, 4))


def flow_of(transport: Transport, task: int = 0) -> Flow:
    return transport.admit([RELEASE(task, 0, 4, 4000)], 0)[0]


def queues(draw: random.Random, links: Sequence[int] = LINKS) -> dict[int, int]:
    """Unfinished work of each link; often some are equal."""
    return {link: draw.choice([0, 10, 20, draw.randint(0, 1000)]) for link in links}


def queued(*work_ps: int) -> dict[int, int]:
    return dict(zip(LINKS, work_ps, strict=True))


@pytest.mark.parametrize("links", [LINKS, (10, 7, 9, 8), (10, 9, 8, 7)])
@pytest.mark.parametrize("step", [0, 1, 300])
def test_the_shortest_queue_is_joined_whatever_the_order_of_the_links(links: tuple[int, ...], step: int):
    draw = random.Random(step)
    transport = JoinShortestQueue(0, 4, step)
    for serial in range(1000):
        work = queues(draw, links)
        chosen = transport.choose_link(flow_of(transport), serial, links, work.__getitem__, 0)
        assert work[chosen] // max(1, step) == min(work.values()) // max(1, step)


@pytest.mark.parametrize("links", [LINKS, (10, 7, 9, 8), (10, 9, 8, 7)])
def test_of_equal_queues_every_one_gets_its_turn(links: tuple[int, ...]):
    """And a switch does not see what another one has chosen."""
    transport, other = JoinShortestQueue(0, 4), (3, 4)
    chosen = {links: [], other: []}
    draw = random.Random(0)
    for serial in range(400):
        which = draw.choice([links, other])
        chosen[which].append(transport.choose_link(flow_of(transport), serial, which, lambda _: 5, 0))
    for of, taken in chosen.items():
        for begin in range(len(taken) - len(of) + 1):
            assert sorted(taken[begin : begin + len(of)]) == sorted(of)


@pytest.mark.parametrize("memory", [0, 1, 4])
def test_drill_that_sees_all_queues_joins_the_shortest(memory: int):
    """64 draws among four miss one with probability 4e-8."""
    draw = random.Random(memory)
    drill, shortest = Drill(0, 4, 64, memory), JoinShortestQueue(0, 4)
    for serial in range(300):
        work = queues(draw)
        lengths = [
            work[transport.choose_link(flow_of(transport), serial, LINKS, work.__getitem__, 0)]
            for transport in (drill, shortest)
        ]
        assert lengths[0] == lengths[1]


def test_drill_that_remembers_all_queues_joins_the_shortest_once_it_has_seen_them():
    draw = random.Random(0)
    drill = Drill(0, 4, 1, 4)
    for serial in range(300):
        work = queues(draw)
        chosen = drill.choose_link(flow_of(drill), serial, LINKS, work.__getitem__, 0)
        assert serial < 50 or work[chosen] == min(work.values())


def test_drill_with_one_draw_and_no_memory_is_random_spray():
    drill = Drill(0, 4, 1, 0)
    work = queued(0, 1000, 2000, 3000)
    chosen = Counter(drill.choose_link(flow_of(drill), serial, LINKS, work.__getitem__, 0) for serial in range(800))
    assert all(150 <= chosen[link] <= 250 for link in LINKS)


def test_two_draws_take_the_shorter():
    """Of four queues the shortest is drawn with probability 7/16, the next 5/16, 3/16, 1/16."""
    drill = Drill(0, 4, 2, 0)
    work = queued(0, 1000, 2000, 3000)
    chosen = Counter(drill.choose_link(flow_of(drill), serial, LINKS, work.__getitem__, 0) for serial in range(1600))
    for place, link in enumerate(LINKS):
        assert abs(chosen[link] - (7 - 2 * place) * 100) < 80


@pytest.mark.parametrize("seed", range(5))
def test_drill_never_does_worse_than_the_queue_that_it_remembers(seed: int):
    """The queue that was chosen last is remembered, even by the choice of another flow."""
    draw = random.Random(seed)
    drill, last = Drill(seed, 4, 2, 1), LINKS[0]
    for serial in range(500):
        work = queues(draw)
        chosen = drill.choose_link(flow_of(drill, draw.randrange(9)), serial, LINKS, work.__getitem__, 0)
        assert not serial or work[chosen] <= work[last]
        last = chosen


def test_a_flow_keeps_the_link_that_was_shortest_when_it_came():
    draw = random.Random(0)
    transport = AdaptiveFlow(0, 4)
    chosen: dict[int, int] = {}
    for serial in range(1000):
        item, work = flow_of(transport, draw.randrange(60)), queues(draw)
        link = transport.choose_link(item, serial, LINKS, work.__getitem__, 0)
        assert work[link] == min(work.values()) if item.id not in chosen else link == chosen[item.id]
        chosen[item.id] = link
    assert len(set(chosen.values())) == 4


def test_a_flow_whose_link_is_given_up_takes_the_shortest_of_the_others():
    transport = AdaptiveFlow(0, 4)
    item = flow_of(transport)
    work = queued(9, 0, 5, 7)
    assert transport.choose_link(item, 0, LINKS, work.__getitem__, 0) == 8
    assert transport.choose_link(item, 1, (7, 9, 10), work.__getitem__, 0) == 9


def two_tiers() -> Topology:
    return fabric(3, 3, 4)


def three_tiers() -> Topology:
    return FatTree(FatTreeConfig.model_validate({"kind": "fat_tree", "k": 4}))


def against_the_grain(folder: Path) -> Topology:
    """Two leaves and two spines, whose cables the file lists from either end: links of a leaf are not in order."""
    switches = [{"id": name, "kind": "switch"} for name in ("a", "b", "s", "t")]
    hosts = [{"id": f"h{n}", "kind": "host"} for n in range(4)]
    cables = [("h0", "a"), ("h1", "a"), ("h2", "b"), ("h3", "b"), ("s", "a"), ("a", "t"), ("s", "b"), ("t", "b")]
    links = [{"source": src, "target": dst, "rate": "100Gbps", "delay": "500ns"} for src, dst in cables]
    file = folder / "fabric.json"
    file.write_text(json.dumps({"nodes": [*switches, *hosts], "links": links}))
    return Graph(GraphConfig(kind="graph", path=str(file)))


def run(topology: Topology, tasks: Sequence[Task], transport: Transport) -> Outcome:
    """A run of the reference engine, one rank a host."""
    rates = Rates(topology, ())
    what = Scene(topology, rates, Routes(topology, rates), range(topology.hosts), Tasks(tasks))
    return ReferenceEngine(what, transport, transport.seed).run()


class Watched(JoinShortestQueue):
    """Checks every choice."""

    def __init__(self, seed: int, most_paths: int) -> None:
        super().__init__(seed, most_paths)
        self.choices = Counter[tuple[int, ...]]()

    def choose_link(
        self, flow: Flow, serial: int, links: Sequence[int], backlog_ps: Callable[[int], int], now_ps: int
    ) -> int:
        chosen = super().choose_link(flow, serial, links, backlog_ps, now_ps)
        assert backlog_ps(chosen) == min(map(backlog_ps, links))
        self.choices[tuple(links)] += 1
        return chosen


@pytest.mark.parametrize("shape", [two_tiers, three_tiers])
def test_every_choice_in_a_simulated_all_to_all_is_a_shortest_queue(shape: Callable[[], Topology]):
    topology = shape()
    transport = Watched(0, 4)
    outcome = run(topology, all_to_all(topology.hosts, 12_000), transport)
    assert transport.choices.total() > outcome.packets // 2


def test_a_switch_uses_all_its_links_in_whatever_order_a_file_lists_them(tmp_path: Path):
    """Two hosts send at the rate of two spines."""
    topology = against_the_grain(tmp_path)
    transport = Watched(0, 2)
    outcome = run(topology, [flow(0, 2, 400_000), flow(1, 3, 400_000)], transport)
    assert any(list(links) != sorted(links) for links in transport.choices)
    ups = {link for links in transport.choices for link in links}
    assert [int(outcome.links[link].bytes) for link in ups] == [400_000, 400_000]


@pytest.mark.parametrize("shape", [two_tiers, three_tiers])
def test_flows_of_adaptive_flow_arrive_in_order_where_packet_by_packet_they_do_not(shape: Callable[[], Topology]):
    """All hosts but those of the last leaf send to those."""
    topology = shape()
    receivers = [host for host in range(topology.hosts) if topology.leaf(host) == topology.leaf(topology.hosts - 1)]
    tasks = [flow(src, receivers[src % len(receivers)], 80_000) for src in range(receivers[0])]
    assert run(topology, tasks, AdaptiveFlow(0, 4)).flows["reordered"].sum() == 0
    assert run(topology, tasks, Drill(0, 4)).flows["reordered"].sum() > 0
