"""The packet engine against closed forms and against a simulator of another kind."""

from collections import defaultdict, deque
from itertools import product
from typing import NamedTuple

from netsim.draws import Draws, Purpose
from netsim.engine.protocol import Scene
from netsim.topology.protocol import paths
from netsim.topology.protocol import places as places_of
from netsim.transport.protocol import Flow, Release
from netsim.workload.tasks import Task
from tests.each import each
from tests.netsim.random_scenes import odd_scene
from tests.netsim.scenes import TRANSPORTS, all_to_all, fabric, flow, scene, simulate

SERVICE, DELAY = 320_000, 500_000  # 4000 B at 100 Gbps; 500 ns


class Packet(NamedTuple):
    flow: int
    sequence: int
    bytes: int
    path: tuple[int, ...]


def stage_by_stage(what: Scene, transport_name: str, seed: int) -> tuple[dict[int, int], list[int], list[int]]:
    """Ends of flows, bytes and peak of links without an event loop: hosts first, then stage after stage of links.

    Valid for tasks that wait for nothing: what leaves a host does not depend on the fabric, and stages form no circle.
    """
    transport = TRANSPORTS[transport_name](seed, what.most_paths)
    order = Draws(seed, Purpose.DESTINATION_ORDER)
    links, topology = what.topology.links, what.topology
    place = places_of(topology)
    batches: dict[int, dict[int, list[Release]]] = defaultdict(lambda: defaultdict(list))
    for index, task in enumerate(what.tasks):
        if task.bytes:
            src, dst = what.hosts[task.src], what.hosts[task.dst]
            routes = paths(topology, src, dst)
            usable = tuple(range(len(routes)))
            leaves, places = (topology.leaf(dst), topology.leaf(src)), (place[src], place[dst])
            release = Release(index, task.src, task.dst, leaves[0], task.bytes, routes, usable, leaves[1], *places)
            batches[routes[0][0]][task.delay_ps].append(release)

    def key(f: Flow) -> tuple[int, int]:
        if what.nic.destinations == "random":
            return order(f.id), f.id
        return (what.hosts[f.message.dst] - what.hosts[f.message.src]) % topology.hosts, f.id

    bytes_, peak, ends = [0] * len(links), [0] * len(links), defaultdict(int)
    arrivals: dict[int, list[tuple[int, int, int, Packet]]] = defaultdict(list)

    def leave(link: int, free: int, time: int, packet: Packet) -> int:
        service = -(-8 * packet.bytes * 10**12 // links[link].rate_bps)
        done = max(time, free) + service
        bytes_[link] += packet.bytes
        peak[link] = max(peak[link], done - time)
        after = packet.path[packet.path.index(link) + 1 :]
        if after:
            arrivals[after[0]].append((done + links[link].delay_ps, packet.flow, packet.sequence, packet))
        else:
            ends[packet.flow] = max(ends[packet.flow], done + links[link].delay_ps)
        return done

    for nic, by_time in batches.items():
        pending = deque(sorted(by_time.items()))
        ring: deque[tuple[Flow, int]] = deque()
        free = 0
        while pending or ring:
            if not ring:
                free = max(free, pending[0][0])
            while pending and pending[0][0] <= free:
                ring.extend((f, 0) for f in sorted(transport.admit(pending.popleft()[1], 0), key=key))
            f, sequence = ring.popleft()
            payload = min(what.packet.payload, f.bytes - sequence * what.packet.payload)
            choice = transport.choose_path(f, sequence, f.message.usable, free) if f.path is None else f.path
            path = f.message.paths[choice]
            if (sequence + 1) * what.packet.payload < f.bytes:
                rest = (f, sequence + 1)
                ring.append(rest) if what.nic.scheduling == "round_robin" else ring.appendleft(rest)
            free = leave(nic, free, free, Packet(f.id, sequence, payload + what.packet.header, path))
    hosts, fabric_links = topology.hosts, (len(links) - 3 * topology.hosts) // 2
    up = range(2 * hosts, 2 * hosts + fabric_links)
    down = range(2 * hosts + fabric_links, 2 * hosts + 2 * fabric_links)
    for stage in (up, down, range(hosts, 2 * hosts)):
        for link in stage:
            free = 0
            for time, _, _, packet in sorted(arrivals[link]):
                free = leave(link, free, time, packet)
    return ends, bytes_, peak


@each("transport, seed", product(TRANSPORTS, range(25)))
def test_equals_the_stage_by_stage_simulator_to_the_picosecond(transport, seed):
    what = odd_scene(seed)
    outcome = simulate(what, transport, seed)
    ends, bytes_, peak = stage_by_stage(what, transport, seed)
    assert {record.id: record.end_ps for record in outcome.flows} == dict(ends)
    assert [record.bytes for record in outcome.links] == bytes_
    assert [record.max_queue_ps for record in outcome.links] == peak


@each("transport, seed", product(TRANSPORTS, range(6)))
def test_conserves_bytes_at_every_stage(transport, seed):
    what = odd_scene(100 + seed)
    outcome = simulate(what, transport, seed)
    sent = defaultdict(int)
    for record in outcome.flows:
        sent[record.task] += record.bytes
    assert dict(sent) == {index: task.bytes for index, task in enumerate(what.tasks) if task.bytes}
    wire = sum(record.bytes + record.packets * what.packet.header for record in outcome.flows)
    hosts = what.topology.hosts
    inside = sum(record.bytes for record in outcome.links[-hosts:])
    assert sum(record.bytes for record in outcome.links[:hosts]) + inside == wire
    assert sum(record.bytes for record in outcome.links[hosts : 2 * hosts]) + inside == wire
    half = (len(outcome.links) - 3 * hosts) // 2
    up, down = outcome.links[2 * hosts : 2 * hosts + half], outcome.links[2 * hosts + half : -hosts]
    assert sum(record.bytes for record in up) == sum(record.bytes for record in down)
    for record, link in zip(outcome.links, what.topology.links, strict=True):
        exact = 8 * record.bytes * 10**12 / link.rate_bps
        assert exact - 1e-3 <= record.busy_ps <= exact + outcome.packets


@each("packets", [2, 16])
@each("dst, links", [(1, 2), (2, 4)])
@each("transport", TRANSPORTS)
def test_one_flow_takes_its_store_and_forward_time(packets, dst, links, transport):
    """k delays + (P + k - 1) services over k equal links; ethereal sends the same packets over several paths."""
    outcome = simulate(scene(fabric(2, 2, 2), [flow(0, dst, 4000 * packets)]), transport)
    assert outcome.completion_ps == links * DELAY + (packets + links - 1) * SERVICE
    assert outcome.packet_hops == packets * links


@each("senders", [1, 5, 15])
def test_incast_is_limited_by_the_receivers_link(senders):
    """Senders on other leaves and one spine apart: the last link serves all packets without a pause."""
    topology = fabric(16, 16, 1)
    tasks = [flow(src, 0, 10 * 4000) for src in range(1, senders + 1)]
    outcome = simulate(scene(topology, tasks), "spray_random")
    assert outcome.completion_ps == 4 * DELAY + (10 * senders + 3) * SERVICE
    queue = outcome.links[topology.hosts].max_queue_ps
    assert queue >= senders * SERVICE if senders > 1 else queue == SERVICE


def test_arrivals_of_one_instant_are_served_by_flow_and_sequence():
    """Three hosts send to a fourth at once; their packets meet at its link in every round."""
    outcome = simulate(scene(fabric(1, 1, 4), [flow(2, 3, 8000), flow(0, 3, 8000), flow(1, 3, 8000)]))
    first = 2 * DELAY + 2 * SERVICE
    assert [record.end_ps for record in outcome.flows] == [first + k * SERVICE for k in (3, 4, 5)]
    assert [record.src for record in outcome.flows] == [2, 0, 1]


def test_round_robin_shares_a_nic_and_sequential_does_not():
    """A long flow, and a short one that is released while the long one is under way."""
    tasks = [flow(0, 1, 10 * 4000), flow(0, 2, 2 * 4000, start_ps=4 * SERVICE)]
    topology = fabric(1, 1, 3)
    shared = simulate(scene(topology, tasks, scheduling="round_robin"))
    queued = simulate(scene(topology, tasks, scheduling="sequential"))
    tail = 2 * DELAY + SERVICE
    # At 4 services the ring holds the long flow and then the short one: long, short, long, short, long ...
    assert [record.end_ps for record in shared.flows] == [12 * SERVICE + tail, 8 * SERVICE + tail]
    assert [record.end_ps for record in queued.flows] == [10 * SERVICE + tail, 12 * SERVICE + tail]


def test_rotated_order_serves_the_next_host_first():
    tasks = [flow(1, dst, 4000) for dst in (0, 2, 3)]
    outcome = simulate(scene(fabric(1, 1, 4), tasks, destinations="rotated"))
    by_end = sorted(outcome.flows, key=lambda record: record.end_ps)
    assert [record.dst for record in by_end] == [2, 3, 0]


def test_ranks_of_a_host_share_the_link_inside():
    topology = fabric(1, 1, 1, ranks_per_host=4, intra_host_rate="100Gbps")
    outcome = simulate(scene(topology, [flow(0, 1, 4000), flow(2, 3, 4000)]))
    assert outcome.completion_ps == 2 * SERVICE
    assert outcome.packet_hops == 2


def test_tasks_without_bytes_take_only_their_delay_and_keep_the_order():
    tasks = [
        Task(0, 0, 0, 7000, ()),
        Task(0, 1, 0, 0, (0,)),
        Task(0, 1, 4000, 0, (1,)),
        Task(1, 1, 0, 3000, (2,)),
        Task(1, 0, 4000, 0, (3,)),
        Task(0, 0, 0, 0, (0, 4)),
    ]
    outcome = simulate(scene(fabric(1, 1, 2), tasks))
    one_route = 2 * DELAY + 2 * SERVICE
    assert list(outcome.task_end_ps) == [
        7000,
        7000,
        7000 + one_route,
        10_000 + one_route,
        10_000 + 2 * one_route,
        10_000 + 2 * one_route,
    ]


def test_nothing_to_do_takes_no_time():
    outcome = simulate(scene(fabric(1, 1, 1), []))
    assert (outcome.completion_ps, outcome.packets, list(outcome.flows)) == (0, 0, [])


def test_single_paths_never_reorder_and_sprays_of_one_flow_do():
    """Two flows from different hosts over two spines, enough packets for random spray to queue on one of them."""
    tasks = [flow(src, dst, 64 * 4000) for src, dst in ((0, 2), (1, 3))]
    what = scene(fabric(2, 2, 2), tasks)
    reordered = {name: sum(record.reordered for record in simulate(what, name, seed=1).flows) for name in TRANSPORTS}
    assert reordered["ecmp"] == reordered["ethereal"] == 0
    assert reordered["spray_random"] > 0


@each("transport", TRANSPORTS)
def test_the_same_seed_is_the_same_run_and_another_seed_is_not(transport):
    what = scene(fabric(4, 4, 2), all_to_all(8, 9000))
    assert simulate(what, transport, 3).equals(simulate(what, transport, 3))
    assert not simulate(what, transport, 3).equals(simulate(what, transport, 4))
