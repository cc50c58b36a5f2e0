"""From a scene, a transport and a seed to the constants of the event engine."""

from collections.abc import Mapping

import numpy as np

from netsim.congestion.recovery import GoBackNConfig, SelectiveConfig
from netsim.congestion.timeout import AUTO
from netsim.draws import Purpose, stream
from netsim.engine import _core
from netsim.engine.core.shared import number, record, records_of_control
from netsim.engine.event.queued_layout import add_queues
from netsim.engine.limits import NO_LIMIT
from netsim.engine.protocol import Scene
from netsim.engine.reference.conditions import marking
from netsim.engine.reference.feedback import PATIENCE
from netsim.transport.protocol import Transport


def rules_of(scene: Scene, transport: Transport, seed: int) -> np.ndarray:
    """The constants of a run, a record of `record("Rules")`."""
    rules = np.zeros(1, dtype=record("Rules"))
    packet, answer, control = scene.packet, scene.acknowledgement, scene.flow_control
    epochs = len(scene.routes.times)
    rules["payload"], rules["header"], rules["full_wire"] = (
        packet.payload,
        packet.header,
        packet.payload + packet.header,
    )
    rules["ack_wire"], rules["acks_queue"] = answer.size, answer.lane == "data"
    rules["acks_take_time"] = answer.lane == "priority" and not scene.queues
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
    rules["keeps"], rules["places"] = scene.congestion.keeps_state, transport.stride
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
    rules["notify_ps"] = -1 if config.notify_ps is None else config.notify_ps
    if config.core not in _core.controls:
        raise LookupError(f"the compiled core has no congestion control {config.core}: run `make core`")
    rules["congestion"], rules["receivers_ask"] = _core.controls.index(config.core), config.core == "Credit"
    rules["fixed_window"] = -1 if config.fixed_window is None else config.fixed_window


def settings_of(scene: Scene) -> np.ndarray:
    """The record of settings of a run's congestion control."""
    config = scene.congestion
    settings = np.zeros(1, dtype=records_of_control(config.core)[0])
    constants = config.constants(scene.flow_control.kind == "trim")
    if (fields := {*(settings.dtype.names or ())}) != constants.keys():
        has = f"{type(config).__name__}.constants has {sorted(constants)}"
        raise LookupError(f"{has}, and {config.core}Settings in engine/core/congestion {sorted(fields)}")
    _add(settings[0], constants)
    return settings


def _add_transport(rules: np.void, transport: Transport) -> None:
    rules["step_ps"] = rules["parts"] = 1
    rules["choice"] = number("PINNED")
    rules["forgives_last_link"] = transport.forgives_last_link
    rules["entropy_draws"] = stream(transport.seed, Purpose.ENTROPY_PATH)
    rules["path_draws"] = stream(transport.seed, 0)
    _add(rules, transport.constants())


def _add(rules: np.void, constants: Mapping[str, int | float | str]) -> None:
    for name, value in constants.items():
        rules[name] = number(value) if isinstance(value, str) else value
