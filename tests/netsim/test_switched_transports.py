"""Paths chosen by switches: the shortest queue, a sample of the queues, the shortest when a flow begins."""

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from netsim.engine.protocol import Outcome, Scene
from netsim.engine.reference.engine import ReferenceEngine
from netsim.topology.failure import FailureConfig, Rates, Routes
from netsim.topology.fat_tree import FatTree, FatTreeConfig
from netsim.topology.graph import Graph, GraphConfig
from netsim.topology.protocol import Topology
from netsim.transport.protocol import Flow, Transport
from netsim.transport.switched import AdaptiveFlow, Drill, JoinShortestQueue
from netsim.workload.tasks import Task, Tasks
from tests.each import each
from tests.netsim.closed_loop import controlled
from tests.netsim.releases import Releases
from tests.netsim.scenes import all_to_all, fabric, flow, scene

SWITCH, LINKS = 3, (7, 8, 9, 10)
RELEASE = Releases(fabric(2, 4, 4))


def flow_of(transport: Transport, task: int = 0) -> Flow:
    return transport.admit([RELEASE(task, 0, 4, 4000)], 0)[0]


def queues(draw: random.Random, links: Sequence[int] = LINKS) -> dict[int, int]:
    """Unfinished work of each link; often some are equal."""
    return {link: draw.choice([0, 10, 20, draw.randint(0, 1000)]) for link in links}


def queued(*work_ps: int) -> dict[int, int]:
    return dict(zip(LINKS, work_ps, strict=True))


@each("links, step", product([LINKS, (10, 7, 9, 8), (10, 9, 8, 7)], [0, 1, 300]))
def test_the_shortest_queue_is_joined_whatever_the_order_of_the_links(links: tuple[int, ...], step: int):
    draw = random.Random(step)
    transport = JoinShortestQueue(0, 4, step)
    for serial in range(1000):
        work = queues(draw, links)
        chosen = transport.choose_link(flow_of(transport), serial, SWITCH, links, work.__getitem__, 0)
        assert work[chosen] // max(1, step) == min(work.values()) // max(1, step)


@each("links", [LINKS, (10, 7, 9, 8), (10, 9, 8, 7)])
def test_of_equal_queues_every_one_gets_its_turn(links: tuple[int, ...]):
    """And a switch does not see what another one has chosen."""
    transport = JoinShortestQueue(0, 4)
    of_switch, chosen = {SWITCH: links, 5: (3, 4)}, {SWITCH: [], 5: []}
    draw = random.Random(0)
    for serial in range(400):
        switch = draw.choice([*of_switch])
        chosen[switch].append(
            transport.choose_link(flow_of(transport), serial, switch, of_switch[switch], lambda _: 5, 0)
        )
    for switch, of in of_switch.items():
        taken = chosen[switch]
        for begin in range(len(taken) - len(of) + 1):
            assert sorted(taken[begin : begin + len(of)]) == sorted(of)


def test_a_turn_goes_on_when_a_link_is_given_up():
    transport = JoinShortestQueue(0, 4)
    sets = [LINKS, LINKS, LINKS[1:], LINKS[1:], LINKS[1:], LINKS[:2], LINKS]
    item = flow_of(transport)
    taken = [transport.choose_link(item, n, SWITCH, links, lambda _: 5, 0) for n, links in enumerate(sets)]
    assert taken == [7, 8, 9, 10, 8, 7, 8]


@each("memory", [0, 1, 4])
def test_drill_that_sees_all_queues_joins_the_shortest(memory: int):
    """64 draws among four miss one with probability 4e-8."""
    draw = random.Random(memory)
    drill, shortest = Drill(0, 4, 64, memory), JoinShortestQueue(0, 4)
    for serial in range(300):
        work = queues(draw)
        lengths = [
            work[transport.choose_link(flow_of(transport), serial, SWITCH, LINKS, work.__getitem__, 0)]
            for transport in (drill, shortest)
        ]
        assert lengths[0] == lengths[1]


def test_drill_that_remembers_all_queues_joins_the_shortest_once_it_has_seen_them():
    draw = random.Random(0)
    drill = Drill(0, 4, 1, 4)
    for serial in range(300):
        work = queues(draw)
        chosen = drill.choose_link(flow_of(drill), serial, SWITCH, LINKS, work.__getitem__, 0)
        assert serial < 50 or work[chosen] == min(work.values())


def test_drill_with_one_draw_and_no_memory_is_random_spray():
    drill = Drill(0, 4, 1, 0)
    work = queued(0, 1000, 2000, 3000)
    item = flow_of(drill)
    chosen = Counter(drill.choose_link(item, n, SWITCH, LINKS, work.__getitem__, 0) for n in range(800))
    assert all(150 <= chosen[link] <= 250 for link in LINKS)


def test_two_draws_take_the_shorter():
    """Of four queues the shortest is drawn with probability 7/16, the next 5/16, 3/16, 1/16."""
    drill = Drill(0, 4, 2, 0)
    work = queued(0, 1000, 2000, 3000)
    item = flow_of(drill)
    chosen = Counter(drill.choose_link(item, n, SWITCH, LINKS, work.__getitem__, 0) for n in range(1600))
    for place, link in enumerate(LINKS):
        assert abs(chosen[link] - (7 - 2 * place) * 100) < 80


@each("seed", range(5))
def test_drill_never_does_worse_than_the_queue_that_it_remembers(seed: int):
    """The queue that was chosen last is remembered, even by the choice of another flow or among other links."""
    draw = random.Random(seed)
    drill, last, kept = Drill(seed, 4, 2, 1), LINKS[0], 0
    for serial in range(500):
        work, links = queues(draw), draw.choice([LINKS, LINKS[1:], LINKS[2:]])
        chosen = drill.choose_link(flow_of(drill, draw.randrange(9)), serial, SWITCH, links, work.__getitem__, 0)
        if serial and last in links:
            assert work[chosen] <= work[last]
            kept += 1
        last = chosen
    assert kept > 300


def test_a_flow_keeps_the_link_that_was_shortest_when_it_came():
    draw = random.Random(0)
    transport = AdaptiveFlow(0, 4)
    chosen: dict[int, int] = {}
    for serial in range(1000):
        item, work = flow_of(transport, draw.randrange(60)), queues(draw)
        link = transport.choose_link(item, serial, SWITCH, LINKS, work.__getitem__, 0)
        assert work[link] == min(work.values()) if item.id not in chosen else link == chosen[item.id]
        chosen[item.id] = link
    assert len(set(chosen.values())) == 4


def test_a_flow_whose_link_is_given_up_takes_the_shortest_of_the_others():
    transport = AdaptiveFlow(0, 4)
    item = flow_of(transport)
    work = queued(9, 0, 5, 7)
    assert transport.choose_link(item, 0, SWITCH, LINKS, work.__getitem__, 0) == 8
    assert transport.choose_link(item, 1, SWITCH, (7, 9, 10), work.__getitem__, 0) == 9


def test_a_flow_whose_link_works_stays_when_another_is_given_up():
    transport = AdaptiveFlow(0, 4)
    item = flow_of(transport)
    assert transport.choose_link(item, 0, SWITCH, LINKS, queued(9, 5, 0, 7).__getitem__, 0) == 9
    assert transport.choose_link(item, 1, SWITCH, LINKS[1:], queued(9, 0, 5, 7).__getitem__, 0) == 9


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
        self, flow: Flow, serial: int, switch: int, links: Sequence[int], backlog_ps: Callable[[int], int], now_ps: int
    ) -> int:
        chosen = super().choose_link(flow, serial, switch, links, backlog_ps, now_ps)
        assert backlog_ps(chosen) == min(map(backlog_ps, links))
        self.choices[tuple(links)] += 1
        return chosen


@each("shape", [two_tiers, three_tiers])
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


@each("shape", [two_tiers, three_tiers])
def test_flows_of_adaptive_flow_arrive_in_order_where_packet_by_packet_they_do_not(shape: Callable[[], Topology]):
    """All hosts but those of the last leaf send to those."""
    topology = shape()
    receivers = [host for host in range(topology.hosts) if topology.leaf(host) == topology.leaf(topology.hosts - 1)]
    tasks = [flow(src, receivers[src % len(receivers)], 80_000) for src in range(receivers[0])]
    assert run(topology, tasks, AdaptiveFlow(0, 4)).flows["reordered"].sum() == 0
    assert run(topology, tasks, Drill(0, 4)).flows["reordered"].sum() > 0


class Followed(AdaptiveFlow):
    """Notes the links that each flow takes at each switch, and checks that it changes them only if it must."""

    def __init__(self, seed: int, most_paths: int) -> None:
        super().__init__(seed, most_paths)
        self.taken: dict[tuple[int, int], list[int]] = {}

    def choose_link(
        self, flow: Flow, serial: int, switch: int, links: Sequence[int], backlog_ps: Callable[[int], int], now_ps: int
    ) -> int:
        chosen = super().choose_link(flow, serial, switch, links, backlog_ps, now_ps)
        taken = self.taken.setdefault((flow.id, switch), [chosen])
        assert chosen == taken[-1] or taken[-1] not in links
        if chosen != taken[-1]:
            taken.append(chosen)
        return chosen


def test_only_flows_on_a_failed_link_move():
    """The first of the links that leaves choose from fail, and the routing knows."""
    topology = fabric(2, 4, 4)
    failed = FailureConfig.model_validate({"switch": "spine0", "at": "20us", "noticed_after": "5us"})
    what = scene(topology, [flow(src, (src + 4) % 8, 800_000) for src in range(8)], failures=[failed])
    transport = Followed(0, 4)
    ReferenceEngine(controlled(what, recovery={"kind": "selective", "timeout": "50us"}), transport, 0).run()
    moved = {len(taken) > 1 for taken in transport.taken.values() if topology.links[taken[0]].dst == "spine0"}
    stayed = {len(taken) == 1 for taken in transport.taken.values() if topology.links[taken[0]].dst != "spine0"}
    assert moved == stayed == {True}


def test_a_choice_is_told_at_which_switch_it_is():
    """All links of a choice begin there, and no other switch has its number."""
    topology = three_tiers()
    starts: dict[int, set[str]] = {}

    class Asked(JoinShortestQueue):
        def choose_link(self, flow: Flow, serial: int, switch: int, links: Sequence[int], *what: Any) -> int:
            starts.setdefault(switch, set()).update(topology.links[link].src for link in links)
            return super().choose_link(flow, serial, switch, links, *what)

    run(topology, all_to_all(topology.hosts, 4000), Asked(0, 4))
    assert all(len(names) == 1 for names in starts.values())
    assert len(set.union(*starts.values())) == len(starts) == 16


def test_drawn_ties_are_any_of_the_shortest_queues_and_no_other():
    """Of 3000 draws each of three equal queues gets a third, within 5 standard deviations of 26; a single one all."""
    transport = JoinShortestQueue(0, 4, ties="drawn")
    work = queued(10, 0, 0, 0)
    drawn = Counter(
        transport.choose_link(flow_of(transport, task), serial, SWITCH, LINKS, work.__getitem__, 0)
        for task in range(30)
        for serial in range(100)
    )
    assert drawn.keys() == {8, 9, 10}
    assert all(abs(count - 1000) < 130 for count in drawn.values())
    work = queued(10, 11, 9, 12)
    assert {transport.choose_link(flow_of(transport), n, SWITCH, LINKS, work.__getitem__, 0) for n in range(50)} == {9}
