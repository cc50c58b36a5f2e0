"""From a scene, a transport and a seed to the constants of the event engine."""

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
from netsim.draws import Purpose, stream
from netsim.engine.core.shared import number, record
from netsim.engine.event.queued_layout import add_queues
from netsim.engine.limits import NO_LIMIT
from netsim.engine.protocol import Scene, keeps_state
from netsim.engine.reference.conditions import marking
from netsim.engine.reference.feedback import PATIENCE
from netsim.transport.detouring import Ugal, Valiant
from netsim.transport.ecmp import Ecmp
from netsim.transport.ethereal import Ethereal
from netsim.transport.flowlet import Flowlet
from netsim.transport.protocol import Transport
from netsim.transport.reps import Reps
from netsim.transport.spray import DestinationRotation, SprayRandom, SprayRoundRobin
from netsim.transport.subflows import Subflows
from netsim.transport.switched import AdaptiveFlow, Drill, JoinShortestQueue

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


def rules_of(scene: Scene, transport: Transport, seed: int) -> np.ndarray:
    """The record of `record("Rules")` of a run."""
    rules = np.zeros(1, dtype=record("Rules"))
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
        rules["mark_above"], rules["mark_all_above"], rules["mark_at_most"], rules["marks_leaving"] = marks
    if scene.link_errors is not None:
        rules["errors"] = number("REPEATED") if scene.link_errors.retry == "link" else number("LOSES")
        rules["error_rate"] = scene.link_errors.rate
    rules["error_draws"] = stream(seed, Purpose.LINK_ERROR)
    rules["listens"] = scene.listens or transport.needs_acknowledgements
    rules["round_robin"] = scene.nic.scheduling == "round_robin"
    given = {"random": number("DRAWN"), "rotated": number("ROTATED")}[scene.nic.destinations]
    rules["order"] = number("AS_GIVEN") if transport.orders_flows else given
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
    rules["patience"], rules["fruitless"] = min(PATIENCE, limits.fruitless), limits.fruitless
    rules["round_ps"] = config.first_ps if scene.flow_control.kind == "trim" else NO_LIMIT
    rules["limit_ps"] = limits.simulated
    rules["end_ps"] = np.minimum(rules["limit_ps"], rules["round_ps"] - 1)
    if config.kind != "none":
        rules["timeout_ps"], rules["longest_timeout_ps"] = config.first_ps, config.longest_timeout
        rules["estimates"] = config.timeout == AUTO
    match config:
        case GoBackNConfig():
            rules["recovery"] = number("GO_BACK_N")
        case SelectiveConfig(reordering=reordering):
            rules["recovery"] = number("SELECTIVE")
            rules["reordering"] = -1 if reordering is None else reordering
        case _:
            rules["recovery"] = number("SELECTIVE") if scene.flow_control.kind == "trim" else number("NOTHING_LOST")


def _add_congestion(rules: np.void, scene: Scene) -> None:
    config = scene.congestion
    rules["notify_ps"], rules["first_alpha"] = -1, 1.0
    window = 2**31 - 1 if isinstance(config, NoneConfig) else getattr(config, "window", 1)
    rules["fixed_window"] = window if isinstance(window, int) else -1
    match config:
        case DctcpConfig():
            rules["congestion"], rules["gain"], rules["first_alpha"] = number("DCTCP"), config.gain, config.alpha
        case SwiftConfig():
            rules["congestion"], rules["queueing_ps"] = number("SWIFT"), config.queueing
            rules["increase"], rules["decrease"] = config.increase, config.decrease
            rules["largest_decrease"] = config.largest_decrease
            rules["smallest_window"] = config.smallest_window
            rules["hop_ps"], rules["flow_range"] = config.hop_scaling, config.flow_scaling
            rules["flow_gain"], rules["flow_offset"] = config.flow_curve()
        case ReceiverCreditConfig() | NdpConfig():
            rules["congestion"], rules["grant"], rules["pace"] = number("ASKED"), config.grant, config.pace
            most = config.outstanding if isinstance(config, ReceiverCreditConfig) else 0
            rules["outstanding"] = most if isinstance(most, int) else -1
        case NsccConfig():
            rules["congestion"], rules["gate"] = number("NSCC"), 1 << config.gate
            rules["trim_share"] = 0.75 if scene.flow_control.kind == "trim" else 1.0
            rules["network_ps"] = -1 if config.round_trip == "auto" else config.round_trip
            rules["target_ps"] = -1 if config.target == "auto" else config.target
        case DcqcnConfig():
            rules["congestion"], rules["gain"], rules["notify_ps"] = number("DCQCN"), config.gain, config.notify_every
            rules["estimate_ps"], rules["increase_ps"] = config.estimate_every, config.increase_every
            rules["increase_bytes"], rules["fast_steps"] = config.increase_bytes, config.fast_steps
            rules["additive_bps"], rules["hyper_bps"] = config.additive, config.hyper
            rules["slowest_bps"] = config.slowest
        case _:
            rules["congestion"] = number("FIXED")


def _add_transport(rules: np.void, transport: Transport) -> None:
    rules["step_ps"] = rules["parts"] = 1
    rules["forgives_last_link"] = transport.forgives_last_link
    rules["entropy_draws"] = stream(transport.seed, Purpose.ENTROPY_PATH)
    rules["path_draws"] = stream(transport.seed, _DRAWS.get(type(transport), 0))
    match transport:
        case SprayRandom():
            rules["choice"], rules["entropies"] = number("SPRAY_RANDOM"), transport.entropies or 0
            rules["in_rounds"] = transport.in_rounds
        case SprayRoundRobin():
            rules["choice"] = number("SPRAY_ROUND_ROBIN")
        case DestinationRotation():
            rules["choice"] = number("ROTATION")
        case Flowlet():
            rules["choice"], rules["gap_ps"] = number("FLOWLET"), transport.gap_ps
        case Reps():
            rules["choice"], rules["entries"], rules["freeze_ps"] = (
                number("REPS"),
                transport.entries,
                transport.freeze_ps,
            )
            rules["explore"], rules["entropies"] = transport.explore, transport.entropies or 0
            rules["every"] = transport.every
        case JoinShortestQueue():
            rules["choice"], rules["at_switch"], rules["step_ps"] = (
                number("AT_SWITCH"),
                number("SHORTEST"),
                transport.step_ps,
            )
            if transport.draws_ties:
                rules["at_switch"] = number("SHORTEST_DRAWN")
        case Drill():
            rules["choice"], rules["at_switch"] = number("AT_SWITCH"), number("SAMPLED")
            rules["samples"], rules["memory"] = transport.samples, transport.memory
        case Valiant():
            rules["choice"] = number("DETOURING")
        case Ugal():
            rules["choice"], rules["bias_ps"] = number("AT_FIRST_SWITCH"), transport.bias_ps
            rules["other_draws"] = stream(transport.seed, Purpose.MINIMAL)
        case AdaptiveFlow():
            rules["choice"], rules["at_switch"] = number("AT_SWITCH"), number("FLOW_SHORTEST")
        case _:
            rules["choice"] = number("PINNED")
            rules["asks_after_timeout"] = type(transport).on_timeout is not Transport.on_timeout
            _add_admission(rules, transport)


def _add_admission(rules: np.void, transport: Transport) -> None:
    """Rules of transports that give each flow a path."""
    match transport:
        case Ecmp(hash="crc32"):
            rules["admission"], rules["path_draws"] = number("CHECKSUM"), crc32(transport.seed.to_bytes(8, "little"))
        case Ecmp():
            rules["admission"], rules["path_draws"] = number("HASHED"), stream(transport.seed, Purpose.ECMP_PATH)
        case Subflows():
            rules["admission"], rules["path_draws"] = number("PARTS"), stream(transport.seed, Purpose.SUBFLOW_PATH)
            rules["parts"] = transport.stride
        case Ethereal():
            rules["admission"], rules["parts"] = number("BALANCED"), transport.stride
            rules["equal_pieces"], rules["shuffled"] = transport.pieces == "equal", transport.randomise
            rules["shuffled_groups"] = transport.order == "published"
            rules["staggered"] = transport.order == "staggered"
            rules["start_delay_ps"] = transport.start_delay_ps
            rules["path_draws"] = stream(transport.seed, Purpose.ETHEREAL_PATHS)
            rules["leaf_draws"] = stream(transport.seed, Purpose.ETHEREAL_LEAVES)
            rules["member_draws"] = stream(transport.seed, Purpose.ETHEREAL_FLOWS)
            rules["delay_draws"] = stream(transport.seed, Purpose.START_DELAY)
