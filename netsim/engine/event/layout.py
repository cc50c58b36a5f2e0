"""From a scene, a transport and a seed to the event engine's arrays."""

from binascii import crc32

import numpy as np

from netsim.congestion.credit import NdpConfig, ReceiverCreditConfig
from netsim.congestion.dcqcn import DcqcnConfig
from netsim.congestion.dctcp import DctcpConfig
from netsim.congestion.nscc import NsccConfig
from netsim.congestion.recovery import GoBackNConfig, SelectiveConfig
from netsim.congestion.swift import SwiftConfig
from netsim.congestion.timeout import AUTO
from netsim.congestion.window import NoneConfig
from netsim.draws import Purpose
from netsim.engine.compiled.draws import stream
from netsim.engine.compiled.fabric import FabricArrays
from netsim.engine.compiled.lines import zeros
from netsim.engine.compiled.service import service_ps
from netsim.engine.compiled.successors import successors
from netsim.engine.event.admission import AS_GIVEN, DRAWN, ROTATED
from netsim.engine.event.calendar import END_PS, heap
from netsim.engine.event.choices import (
    AT_FIRST_SWITCH,
    AT_SWITCH,
    DETOURING,
    FLOWLET,
    PINNED,
    REPS,
    ROTATION,
    SPRAY_RANDOM,
    SPRAY_ROUND_ROBIN,
)
from netsim.engine.event.congestion import ASKED, DCQCN, DCTCP, FIXED, NSCC, SWIFT
from netsim.engine.event.cutting import BALANCED, CHECKSUM, HASHED, PARTS
from netsim.engine.event.departures import SPARE
from netsim.engine.event.errors import LOSES, REPEATED
from netsim.engine.event.queued_layout import add_queues, queued_of
from netsim.engine.event.recovery import GO_BACK_N, NOTHING_LOST, SELECTIVE
from netsim.engine.event.state import (
    ASKED_STATE,
    FLOW_STATE,
    HOST_RING,
    LANE,
    LINK_STATE,
    NSCC_STATE,
    PACER,
    PACKET,
    RULES,
    TOTALS,
    TRANSMISSION,
    Flight,
    Hosts,
    Network,
    Program,
    Routing,
    State,
)
from netsim.engine.event.switches import FLOW_SHORTEST, MOST_CANDIDATES, SAMPLED, SHORTEST, SHORTEST_DRAWN, Tree, tree
from netsim.engine.event.watching import STRIDE
from netsim.engine.protocol import Scene, keeps_state
from netsim.engine.queue_series import FIRST_WIDTH_PS, INTERVALS
from netsim.engine.reference.conditions import marking
from netsim.engine.reference.feedback import PATIENCE
from netsim.engine.watch import MOST_SAMPLES, SAMPLE, watched_tasks
from netsim.topology.protocol import places, sources
from netsim.transport.detouring import Ugal, Valiant
from netsim.transport.ecmp import Ecmp
from netsim.transport.ethereal import Ethereal
from netsim.transport.flowlet import Flowlet
from netsim.transport.protocol import Transport
from netsim.transport.reps import Reps
from netsim.transport.spray import DestinationRotation, SprayRandom, SprayRoundRobin
from netsim.transport.subflows import Subflows
from netsim.transport.switched import AdaptiveFlow, Drill, JoinShortestQueue

_PACKETS = 1024
_DRAWS = {
    SprayRandom: Purpose.SPRAY_PATH,
    SprayRoundRobin: Purpose.SPRAY_START,
    DestinationRotation: Purpose.ROTATION_START,
    Flowlet: Purpose.FLOWLET_PATH,
    Reps: Purpose.REPS_PATH,
    Drill: Purpose.DRILL_SAMPLE,
    JoinShortestQueue: Purpose.JSQ_TIE,
    Valiant: Purpose.DETOUR,
    Ugal: Purpose.DETOUR,
}


def state_of(scene: Scene, fabric: FabricArrays, transport: Transport, seed: int) -> State:
    """The state at the beginning of a run.

    Args:
        scene: Tasks and fabric.
        fabric: The fabric of the scene.
        transport: Path choice.
        seed: Seed of the run.
    """
    rules = _rules(scene, transport, seed)
    links = _links(scene, fabric, rules[0])
    places = np.arange(len(fabric.usable)) - np.repeat(fabric.usable_begin[:-1], np.diff(fabric.usable_begin))
    rules["all_usable"] = np.array_equal(fabric.usable, places)
    totals = _one(TOTALS)
    totals["width_bits"] = FIRST_WIDTH_PS.bit_length() - 1
    totals["now_ps"] = totals["moves_up"] = -1
    totals["undone"] = len(scene.tasks) - int(scene.tasks.in_background.sum())
    changes = fabric.change_begin, fabric.change_ps, fabric.rate_bps
    network = Network(rules, totals, links, *changes, np.zeros(INTERVALS, dtype=np.int64), *_carried(scene))
    rings = zeros(len(links) * scene.classes, HOST_RING)
    rings["first"] = rings["last"] = rings["last_flow"] = rings["look_ps"] = -1
    pacers = np.zeros(len(links) if rules["congestion"][0] == ASKED else 0, dtype=PACER)
    pacers["first"] = -1
    sent, own = np.zeros(0, dtype=TRANSMISSION), (np.zeros(0, dtype=NSCC_STATE), np.zeros(0, dtype=ASKED_STATE))
    hosts = Hosts(zeros(0, FLOW_STATE), rings, *own, pacers, heap(0), heap(0), sent, *_samples(scene))
    queued = queued_of(scene, links) if scene.queues else None
    return State(network, hosts, _program(scene, transport), _routing(scene, fabric, links, transport), queued)


def _carried(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Room for the bytes of links over time."""
    links = len(scene.topology.links) if scene.watch is not None and scene.watch.links else 0
    return np.zeros((links, INTERVALS), dtype=np.int64), np.array([FIRST_WIDTH_PS.bit_length() - 1, 0], dtype=np.int64)


def _samples(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the tasks whose flows are recorded, and room for their samples."""
    tasks = [] if scene.watch is None else watched_tasks(scene.watch, scene.tasks.columns())
    slots = np.full(len(scene.tasks) if tasks else 0, -1, dtype=np.int64)
    slots[tasks] = np.arange(len(tasks))
    sampled = np.zeros((len(tasks), 3), dtype=np.int64)
    sampled[:, STRIDE] = 1
    return slots, np.zeros((len(tasks), MOST_SAMPLES, len(SAMPLE.names or ())), dtype=np.int64), sampled


def flight_of(state: State) -> Flight:
    """An empty calendar without packets in flight, for the links of a state."""
    links, queues = len(state.network.links), 0 if state.queued is None else len(state.queued.queues)
    return Flight(heap(3 * links + 4 * queues + SPARE), np.full(2 * links, -1, dtype=LANE), packets(0))


def packets(used: int) -> np.ndarray:
    """Records for packets that are not in use, as a linked list that starts at index `used`."""
    fresh = np.zeros(max(_PACKETS, used), dtype=PACKET)
    fresh["next"] = np.arange(used + 1, used + len(fresh) + 1)
    fresh["next"][-1] = -1
    return fresh


def _one(record: np.dtype) -> np.ndarray:
    return np.zeros(1, dtype=record)


def _rules(scene: Scene, transport: Transport, seed: int) -> np.ndarray:
    rules = _one(RULES)
    packet, answer, control = scene.packet, scene.acknowledgement, scene.flow_control
    epochs = len(scene.routes.times)
    rules["payload"], rules["header"], rules["full_wire"] = (
        packet.payload,
        packet.header,
        packet.payload + packet.header,
    )
    rules["answer_wire"], rules["answers_queue"] = answer.size, answer.lane == "data"
    rules["answers_take_time"] = answer.lane == "priority" and not scene.queues
    if control.kind == "trim":
        rules["trims"], rules["trimmed_wire"] = True, control.header
    rules["room_bytes"] = -1 if scene.queue_bytes is None or control.kind == "pfc" else scene.queue_bytes
    add_queues(rules[0], scene)
    if (marks := marking(scene, transport)) is not None:
        rules["marks"] = True
        rules["mark_above"], rules["mark_all_above"], rules["mark_at_most"] = marks
    if scene.link_errors is not None:
        rules["errors"] = REPEATED if scene.link_errors.retry == "link" else LOSES
        rules["error_rate"] = scene.link_errors.rate
    rules["error_draws"] = stream(seed, Purpose.LINK_ERROR)
    rules["listens"] = scene.listens or transport.needs_acknowledgements
    rules["round_robin"] = scene.nic.scheduling == "round_robin"
    given = {"random": DRAWN, "rotated": ROTATED}[scene.nic.destinations]
    rules["order"] = AS_GIVEN if transport.orders_flows else given
    rules["hosts"], rules["leaves"], rules["epochs"] = scene.topology.hosts, len(scene.topology.tiers[0]), epochs
    rules["order_draws"] = stream(seed, Purpose.DESTINATION_ORDER)
    rules["mark_draws"] = stream(seed, Purpose.MARK)
    _add_recovery(rules[0], scene)
    _add_congestion(rules[0], scene)
    rules["keeps"], rules["places"] = keeps_state(scene), transport.stride
    _add_transport(rules[0], transport)
    return rules


def _add_recovery(rules: np.void, scene: Scene) -> None:
    config, limits = scene.recovery, scene.limits
    rules["timeout_ps"] = rules["reordering"] = -1
    rules["patience"], rules["end_ps"] = min(PATIENCE, limits.fruitless), limits.simulated
    if config.kind != "none":
        rules["timeout_ps"], rules["longest_timeout_ps"] = config.first_ps, config.longest_timeout
        rules["estimates"] = config.timeout == AUTO
    match config:
        case GoBackNConfig():
            rules["recovery"] = GO_BACK_N
        case SelectiveConfig(reordering=reordering):
            rules["recovery"] = SELECTIVE
            rules["reordering"] = -1 if reordering is None else reordering
        case _:
            rules["recovery"] = SELECTIVE if scene.flow_control.kind == "trim" else NOTHING_LOST


def _add_congestion(rules: np.void, scene: Scene) -> None:
    config = scene.congestion
    rules["notify_ps"], rules["first_alpha"] = -1, 1.0
    window = 2**31 - 1 if isinstance(config, NoneConfig) else getattr(config, "window", 1)
    rules["fixed_window"] = window if isinstance(window, int) else -1
    match config:
        case DctcpConfig():
            rules["congestion"], rules["gain"], rules["first_alpha"] = DCTCP, config.gain, config.alpha
        case SwiftConfig():
            rules["congestion"], rules["queueing_ps"] = SWIFT, config.queueing
            rules["increase"], rules["decrease"] = config.increase, config.decrease
            rules["largest_decrease"] = config.largest_decrease
            rules["smallest_window"] = config.smallest_window
            rules["hop_ps"], rules["flow_range"] = config.hop_scaling, config.flow_scaling
            rules["flow_gain"], rules["flow_offset"] = config.flow_curve()
        case ReceiverCreditConfig() | NdpConfig():
            rules["congestion"], rules["grant"], rules["pace"] = ASKED, config.grant, config.pace
            most = config.outstanding if isinstance(config, ReceiverCreditConfig) else 0
            rules["outstanding"] = most if isinstance(most, int) else -1
        case NsccConfig():
            rules["congestion"], rules["gate"] = NSCC, 1 << config.gate
            rules["trim_share"] = 0.75 if scene.flow_control.kind == "trim" else 1.0
            rules["network_ps"] = -1 if config.round_trip == "auto" else config.round_trip
            rules["target_ps"] = -1 if config.target == "auto" else config.target
        case DcqcnConfig():
            rules["congestion"], rules["gain"], rules["notify_ps"] = DCQCN, config.gain, config.notify_every
            rules["estimate_ps"], rules["increase_ps"] = config.estimate_every, config.increase_every
            rules["increase_bytes"], rules["fast_steps"] = config.increase_bytes, config.fast_steps
            rules["additive_bps"], rules["hyper_bps"] = config.additive, config.hyper
            rules["slowest_bps"] = config.slowest
        case _:
            rules["congestion"] = FIXED


def _add_transport(rules: np.void, transport: Transport) -> None:
    rules["step_ps"] = rules["parts"] = 1
    rules["forgives_last_link"] = transport.forgives_last_link
    rules["entropy_draws"] = stream(transport.seed, Purpose.ENTROPY_PATH)
    rules["path_draws"] = stream(transport.seed, _DRAWS.get(type(transport), 0))
    match transport:
        case SprayRandom():
            rules["choice"], rules["entropies"] = SPRAY_RANDOM, transport.entropies or 0
        case SprayRoundRobin():
            rules["choice"] = SPRAY_ROUND_ROBIN
        case DestinationRotation():
            rules["choice"] = ROTATION
        case Flowlet():
            rules["choice"], rules["gap_ps"] = FLOWLET, transport.gap_ps
        case Reps():
            rules["choice"], rules["entries"], rules["freeze_ps"] = REPS, transport.entries, transport.freeze_ps
            rules["explore"], rules["entropies"] = transport.explore, transport.entropies or 0
            rules["every"] = transport.every
        case JoinShortestQueue():
            rules["choice"], rules["switch"], rules["step_ps"] = AT_SWITCH, SHORTEST, transport.step_ps
            if transport.draws_ties:
                rules["switch"] = SHORTEST_DRAWN
        case Drill():
            rules["choice"], rules["switch"] = AT_SWITCH, SAMPLED
            rules["samples"], rules["memory"] = transport.samples, transport.memory
        case Valiant():
            rules["choice"] = DETOURING
        case Ugal():
            rules["choice"], rules["bias_ps"] = AT_FIRST_SWITCH, transport.bias_ps
            rules["other_draws"] = stream(transport.seed, Purpose.MINIMAL)
        case AdaptiveFlow():
            rules["choice"], rules["switch"] = AT_SWITCH, FLOW_SHORTEST
        case _:
            rules["choice"] = PINNED
            rules["asks_after_timeout"] = type(transport).on_timeout is not Transport.on_timeout
            _add_admission(rules, transport)


def _add_admission(rules: np.void, transport: Transport) -> None:
    """Rules of transports that give each flow a path."""
    match transport:
        case Ecmp(hash="crc32"):
            rules["admission"], rules["path_draws"] = CHECKSUM, crc32(transport.seed.to_bytes(8, "little"))
        case Ecmp():
            rules["admission"], rules["path_draws"] = HASHED, stream(transport.seed, Purpose.ECMP_PATH)
        case Subflows():
            rules["admission"], rules["path_draws"] = PARTS, stream(transport.seed, Purpose.SUBFLOW_PATH)
            rules["parts"] = transport.stride
        case Ethereal():
            rules["admission"], rules["parts"] = BALANCED, transport.stride
            rules["equal_pieces"], rules["shuffled"] = transport.pieces == "equal", transport.randomise
            rules["shuffled_groups"] = transport.order == "published"
            rules["staggered"] = transport.order == "staggered"
            rules["start_delay_ps"] = transport.start_delay_ps
            rules["path_draws"] = stream(transport.seed, Purpose.ETHEREAL_PATHS)
            rules["leaf_draws"] = stream(transport.seed, Purpose.ETHEREAL_LEAVES)
            rules["member_draws"] = stream(transport.seed, Purpose.ETHEREAL_FLOWS)
            rules["delay_draws"] = stream(transport.seed, Purpose.START_DELAY)


def _links(scene: Scene, fabric: FabricArrays, rules: np.void) -> np.ndarray:
    links = zeros(len(scene.topology.links), LINK_STATE)
    links["delay_ps"], links["rate_bps"] = fabric.delay_ps, scene.rates.initial
    links["at_switch"], links["reverse"] = fabric.at_switch, fabric.reverse
    links["varies"] = np.diff(fabric.change_begin) > 1
    links["varies"] |= fabric.rate_bps[fabric.change_begin[:-1]] != links["rate_bps"]
    links["room_ps"] = END_PS
    round_trip_ps = links["delay_ps"] + links["delay_ps"][links["reverse"]]
    links["round_trip_ps"] = np.where(links["reverse"] == np.arange(len(links)), -1, round_trip_ps)
    for rate in np.unique(links["rate_bps"]).tolist():
        of_rate = links["rate_bps"] == rate
        links["full_ps"][of_rate] = service_ps(int(rules["full_wire"]), rate)
        links["answer_ps"][of_rate] = service_ps(int(rules["answer_wire"]), rate)
        if rules["room_bytes"] >= 0:
            links["room_ps"][of_rate] = service_ps(int(rules["room_bytes"]), rate)
        if rules["marks"]:
            links["mark_ps"][of_rate] = service_ps(int(rules["mark_above"]), rate)
            links["mark_all_ps"][of_rate] = service_ps(int(rules["mark_all_above"]), rate)
    return links


def _queue_pairs(scene: Scene, transport: Transport) -> tuple[np.ndarray, np.ndarray]:
    """See `Program`: `queue_pair` and `latest`."""
    if not keeps_state(scene):
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
        ways=np.zeros((2, paths), dtype=np.int64),
        seen=np.zeros((2, len(scene.topology.links)), dtype=np.int64),
        avoided=np.zeros((0, 4), dtype=np.int64),
    )


def _routing(scene: Scene, fabric: FabricArrays, links: np.ndarray, transport: Transport) -> Routing:
    back = links[fabric.reverse[fabric.way_links]]
    present = fabric.way_links >= 0
    answer_ps = np.where(present, back["answer_ps"] + back["delay_ps"], 0).sum(axis=1)
    unsteady = (present & ((links[fabric.way_links]["varies"] | back["varies"]) > 0)).any(axis=1)
    pairs = len(fabric.way_begin) - 1
    calm = np.ones(pairs, dtype=np.uint8)
    np.logical_and.at(calm, np.repeat(np.arange(pairs), np.diff(fabric.way_begin)), ~unsteady)
    nothing = np.zeros(0, dtype=np.int64)
    choices = tree(fabric) if transport.at_switch else Tree(nothing, nothing, nothing, nothing)
    memory = max(1, transport.memory) if isinstance(transport, Drill) else 1
    leaves, source = len(scene.topology.tiers[0]), np.array(sources(scene.topology), dtype=np.int64)
    return Routing(
        fabric.up,
        fabric.down,
        fabric.inside,
        fabric.leaf,
        np.array(places(scene.topology), dtype=np.int64),
        fabric.pair,
        fabric.way_begin,
        fabric.way_links.astype(np.int32),
        fabric.way_length,
        fabric.minimal,
        answer_ps,
        np.zeros(len(answer_ps), dtype=np.int64),
        calm,
        fabric.epoch_ps,
        fabric.usable_begin,
        fabric.usable,
        np.zeros(scene.topology.hosts * leaves if isinstance(transport, DestinationRotation) else 0, dtype=np.int64),
        choices.begin,
        choices.link,
        choices.node,
        choices.way,
        source,
        np.full((source.max() + 1 if transport.at_switch else 0, memory), -1, dtype=np.int64),
        np.zeros((2, MOST_CANDIDATES), dtype=np.int64),
        np.zeros((_PACKETS, 3), dtype=np.int64),
        np.zeros((0, 2), dtype=np.int32),
    )
