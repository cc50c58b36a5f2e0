"""From a scene, a transport and a seed to the event engine's arrays.

Each pair of leaves and epoch (of the packet's departure) has a tree of choices: its nodes are the links that continue
the path so far, in the order of the routes. A packet descends in this tree.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from netsim.engine.core.arrays import END_PS, NEVER, heap, successors, zeros
from netsim.engine.core.fabric import FabricArrays
from netsim.engine.core.shared import number, record, records_of_control
from netsim.engine.event.queued_layout import queued_of
from netsim.engine.event.rules_layout import rules_of, settings_of
from netsim.engine.event.state import Flight, Hosts, Network, Program, Routing, State
from netsim.engine.protocol import Scene
from netsim.engine.queue_series import FIRST_WIDTH_PS, INTERVALS
from netsim.engine.reference.watching import NOBODY
from netsim.engine.watch import MOST_SAMPLES, SAMPLE, watched_tasks
from netsim.foundation.units import service_ps
from netsim.topology.protocol import sources
from netsim.transport.protocol import Transport
from netsim.transport.spray import DestinationRotation
from netsim.transport.switched import Drill


class Tree(NamedTuple):
    """Choices of all pairs and epochs; a packet begins at node pair * E + epoch."""

    begin: np.ndarray  # rows of the next two of each node
    link: np.ndarray  # links that lead on
    node: np.ndarray  # nodes to which they lead
    route: np.ndarray  # of each node, a route that begins with the links to it


def tree(fabric: FabricArrays) -> Tree:
    """The trees of choices of a fabric."""
    epochs = len(fabric.epoch_ps)
    roots = (len(fabric.route_begin) - 1) * epochs
    route = [-1] * roots
    children: list[dict[int, int]] = [{} for _ in range(roots)]
    for root in range(roots):
        first = int(fabric.route_begin[root // epochs])
        for index in fabric.usable[fabric.usable_begin[root] : fabric.usable_begin[root + 1]].tolist():
            links: Sequence[int] = fabric.route_links[first + index, : fabric.route_length[first + index]].tolist()
            node = root
            route[root] = first + index if route[root] < 0 else route[root]
            for link in links:
                if link not in children[node]:
                    children[node][link] = len(children)
                    children.append({})
                    route.append(first + index)
                node = children[node][link]
    begin = np.cumsum([0, *(len(of_node) for of_node in children)])
    link = np.array([link for of_node in children for link in of_node], dtype=np.int64)
    node = np.array([node for of_node in children for node in of_node.values()], dtype=np.int64)
    return Tree(begin.astype(np.int64), link, node, np.array(route, dtype=np.int64))


_PACKETS = 1024
_EVENTS_OF_SLOT, _LINKS_AHEAD, _MOST_SLOTS_BITS = 4, 8, 16
"""Of the calendar: events per slot if all links are busy, links that the slots cover, and bits of the most slots."""


def state_of(scene: Scene, fabric: FabricArrays, transport: Transport, seed: int) -> State:
    """The state at the beginning of a run."""
    rules = rules_of(scene, transport, seed)
    links, kinds = _links(scene, fabric, rules[0])
    places = np.arange(len(fabric.usable)) - np.repeat(fabric.usable_begin[:-1], np.diff(fabric.usable_begin))
    rules["all_usable"] = np.array_equal(fabric.usable, places)
    totals = _one(record("Totals"))
    totals["width_bits"] = FIRST_WIDTH_PS.bit_length() - 1
    totals["now_ps"] = totals["moves_up"] = -1
    totals["refused"] = NOBODY
    totals["undone"] = len(scene.tasks) - int(scene.tasks.in_background.sum())
    since_ps = np.full(len(fabric.rate_bps), -1, dtype=np.int64)
    changes = fabric.change_begin, fabric.change_ps, fabric.rate_bps, since_ps
    keys = np.zeros(0, dtype=np.int64) if scene.tasks.keys is None else scene.tasks.keys
    network = Network(
        rules, totals, links, kinds, *changes, np.zeros(INTERVALS, dtype=np.int64), *_carried(scene), keys
    )
    rings = zeros(len(links) * scene.classes, record("Ring"))
    rings["first"] = rings["last"] = rings["last_flow"] = rings["look_ps"] = -1
    pacers = np.zeros(len(links) if rules["receivers_ask"][0] else 0, dtype=record("Pacer"))
    pacers["first"] = -1
    rows = np.zeros(0, dtype=record("Transmission")), np.zeros(0, dtype=np.uint8)
    control = settings_of(scene), np.zeros(0, dtype=records_of_control(scene.congestion.core)[1])
    hosts = Hosts(zeros(0, record("Flow")), rings, *control, pacers, heap(0), heap(0), *rows, *_samples(scene))
    queued = queued_of(scene, links, kinds) if scene.queues else None
    return State(network, hosts, _program(scene, transport), _routing(scene, fabric, links, kinds, transport), queued)


def _carried(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Arrays for the bytes of links over time, and for the width and number of intervals."""
    links = len(scene.topology.links) if scene.watch is not None and scene.watch.links else 0
    return np.zeros((links, INTERVALS), dtype=np.int64), np.array([FIRST_WIDTH_PS.bit_length() - 1, 0], dtype=np.int64)


def _samples(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the tasks whose flows are recorded, and room for their samples."""
    tasks = [] if scene.watch is None else watched_tasks(scene.watch, scene.tasks.columns())
    slots = np.full(len(scene.tasks) if tasks else 0, -1, dtype=np.int64)
    slots[tasks] = np.arange(len(tasks))
    sampled = np.zeros((len(tasks), 3), dtype=np.int64)
    sampled[:, number("STRIDE")] = 1
    return slots, np.zeros((len(tasks), MOST_SAMPLES, len(SAMPLE.names or ())), dtype=np.int64), sampled


def flight_of(state: State) -> Flight:
    """An empty calendar without packets in flight, for the links of a state."""
    links, queues = len(state.network.links), 0 if state.queued is None else len(state.queued.queues)
    unused = packets(0)
    calendar = heap(2 * links + 4 * queues + len(unused) + number("ENTRIES_OF_EVENT"))
    slots, first, filled = _slots(state.network.kinds[state.network.links["kind"]])
    run = np.zeros(2 * len(calendar) + 1, dtype=record("Timer"))
    run["time_ps"][-1] = run["key"][-1] = NEVER
    slots["begin"] = len(run) - 1
    return Flight(
        calendar,
        slots,
        first,
        filled,
        np.zeros(len(calendar), dtype=record("Timer")),
        run,
        np.full(links, -1, dtype=record("Lane")),
        unused,
    )


def _slots(kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slots of the calendar for links of these kinds: short, and enough for the passage of `_LINKS_AHEAD` links."""
    width_ps = max(1, int(_EVENTS_OF_SLOT / (1 / kinds["full_ps"]).sum()))
    horizon_ps = _LINKS_AHEAD * int((kinds["delay_ps"] + kinds["full_ps"]).mean())
    slots = _one(record("Slots"))
    slots["open"] = slots["free"] = -1
    slots["width_bits"] = width_ps.bit_length() - 1
    number = 1 << min(_MOST_SLOTS_BITS, max(6, (horizon_ps >> int(slots["width_bits"][0])).bit_length()))
    return slots, np.full(number, -1, dtype=np.int32), np.zeros(number // 64, dtype=np.uint64)


def packets(used: int) -> np.ndarray:
    """Free packet records, as a linked list that starts at index `used`."""
    fresh = zeros(max(_PACKETS, used), record("Packet"))
    fresh["next"] = np.arange(used + 1, used + len(fresh) + 1)
    fresh["next"][-1] = -1
    return fresh


def _one(record: np.dtype) -> np.ndarray:
    return np.zeros(1, dtype=record)


def _links(scene: Scene, fabric: FabricArrays, rules: np.void) -> tuple[np.ndarray, np.ndarray]:
    """Records of links, and of their kinds (rate and delays)."""
    links = zeros(len(scene.topology.links), record("Link"))
    links["at_switch"], links["reverse"], links["unmarked"] = fabric.at_switch, fabric.reverse, -1
    initial = fabric.nominal_bps
    links["varies"] = np.diff(fabric.change_begin) > 1
    links["varies"] |= fabric.rate_bps[fabric.change_begin[:-1]] != initial
    round_trip_ps = fabric.delay_ps + fabric.delay_ps[fabric.reverse]
    round_trip_ps[fabric.reverse == np.arange(len(links))] = -1
    nature = np.stack([fabric.delay_ps, initial, round_trip_ps])
    distinct, links["kind"] = np.unique(nature, axis=1, return_inverse=True)
    kinds = zeros(distinct.shape[1], record("LinkKind"))
    kinds["delay_ps"], kinds["rate_bps"], kinds["round_trip_ps"] = distinct
    kinds["room_ps"] = END_PS
    for kind, rate in zip(kinds, distinct[1].tolist(), strict=True):
        kind["full_ps"] = service_ps(int(rules["full_wire"]), rate)
        kind["ack_ps"] = service_ps(int(rules["ack_wire"]), rate)
        if rules["room_bytes"] >= 0:
            kind["room_ps"] = service_ps(int(rules["room_bytes"]), rate)
        if rules["marks"]:
            kind["mark_ps"] = service_ps(int(rules["mark_above"]), rate)
            kind["mark_all_ps"] = service_ps(int(rules["mark_all_above"]), rate)
    return links, kinds


def _queue_pairs(scene: Scene, transport: Transport) -> tuple[np.ndarray, np.ndarray]:
    """The queue pair of each task's first flow, and the latest flow of each queue pair; empty if none keeps state."""
    if not scene.congestion.keeps_state:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    columns = scene.tasks.columns()
    pairs = np.asarray(columns.src, dtype=np.int64) * len(scene.hosts) + columns.dst
    distinct, number = np.unique(pairs, return_inverse=True)
    return number * transport.stride, np.full(len(distinct) * transport.stride, -1, dtype=np.int64)


def _program(scene: Scene, transport: Transport) -> Program:
    columns = scene.tasks.columns()
    hosts, tasks = np.asarray(scene.hosts, dtype=np.int32), len(scene.tasks)
    messages, paths = int(np.count_nonzero(columns.bytes)), scene.most_paths
    queue_pair, latest = _queue_pairs(scene, transport)
    next_begin, following = successors(columns.after_begin, columns.after)
    return Program(
        begins=heap(tasks),
        bytes=columns.bytes,
        delay_ps=columns.delay_ps,
        src_host=hosts[columns.src],
        dst_host=hosts[columns.dst],
        traffic_class=scene.tasks.traffic_classes,
        background=scene.tasks.in_background.astype(np.uint8),
        next_begin=next_begin,
        next=following,
        waits_for=np.diff(columns.after_begin).astype(np.int32),
        flows_left=np.zeros(tasks, dtype=np.int32),
        end_ps=np.zeros(tasks, dtype=np.int64),
        released=np.zeros(tasks, dtype=np.int64),
        stack=np.zeros(tasks + 1, dtype=np.int64),
        queue_pair=queue_pair,
        latest=latest,
        src=columns.src,
        dst=columns.dst,
        sorter=heap(max(messages, paths)),
        groups=np.zeros((4, 4 * messages + 4), dtype=np.int64),
        routes=np.zeros((2, paths), dtype=np.int64),
        seen=np.zeros((2, len(scene.topology.links)), dtype=np.int64),
        avoided=np.zeros((0, 4), dtype=np.int64),
    )


def _routing(scene: Scene, fabric: FabricArrays, links: np.ndarray, kinds: np.ndarray, transport: Transport) -> Routing:
    back = links[fabric.reverse[fabric.route_links]]
    passage_ps = (kinds["ack_ps"] + kinds["delay_ps"])[back["kind"]]
    present = fabric.route_links >= 0
    ack_ps = np.where(present, passage_ps, 0).sum(axis=1)
    unsteady = (present & ((links[fabric.route_links]["varies"] | back["varies"]) > 0)).any(axis=1)
    pairs = len(fabric.route_begin) - 1
    calm = np.ones(pairs, dtype=np.uint8)
    np.logical_and.at(calm, np.repeat(np.arange(pairs), np.diff(fabric.route_begin)), ~unsteady)
    alike = _same(fabric.route_length, fabric.route_begin) & _same(ack_ps, fabric.route_begin)
    nothing = np.zeros(0, dtype=np.int64)
    choices = tree(fabric) if transport.at_switch else Tree(nothing, nothing, nothing, nothing)
    memory = max(1, transport.memory) if isinstance(transport, Drill) else 1
    leaves, source = len(scene.topology.tiers[0]), np.array(sources(scene.topology), dtype=np.int64)
    route_links = zeros(fabric.route_links.size, np.dtype(np.int32)).reshape(fabric.route_links.shape)
    route_links[:] = fabric.route_links
    return Routing(
        fabric.up,
        fabric.down,
        fabric.inside,
        fabric.leaf,
        np.array(scene.routes.places, dtype=np.int64),
        fabric.pair,
        fabric.route_begin,
        route_links,
        fabric.route_length,
        fabric.minimal,
        ack_ps,
        zeros(len(ack_ps), np.dtype(np.int64)),
        alike.astype(np.uint8),
        calm,
        fabric.epoch_ps,
        fabric.usable_begin,
        fabric.usable,
        np.zeros(scene.topology.hosts * leaves if isinstance(transport, DestinationRotation) else 0, dtype=np.int64),
        choices.begin,
        choices.link,
        choices.node,
        choices.route,
        source,
        fabric.reverse.astype(np.int32),
        np.full((source.max() + 1 if transport.at_switch else 0, memory), -1, dtype=np.int64),
        np.zeros((2, number("MOST_CANDIDATES")), dtype=np.int64),
        np.zeros((_PACKETS, 3), dtype=np.int64),
        np.zeros((0, 2), dtype=np.int32),
    )


def _same(values: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """For each part of an array, whether all its values are equal; no part may be empty."""
    if len(begin) == 1:
        return np.zeros(0, dtype=np.bool_)
    return np.maximum.reduceat(values, begin[:-1]) == np.minimum.reduceat(values, begin[:-1])
