"""Links with queues as the event engine's arrays."""

import numpy as np

from netsim.engine.buffers import limits_of
from netsim.engine.core.arrays import zeros
from netsim.engine.core.shared import number, record
from netsim.engine.event.state import Queued
from netsim.engine.protocol import Scene

_PACKETS = 1024


def add_queues(rules: np.void, scene: Scene) -> None:
    """Fills the fields of `rules` about classes, shared memory and PFC."""
    control, buffer = scene.flow_control, scene.buffer
    rules["classes"], rules["ends_early"] = scene.classes, scene.ends_early
    rules["memory_bytes"], rules["alpha"] = (-1, 0) if buffer is None else (buffer.size, buffer.millionths)
    if control.kind == "pfc":
        rules["pauses"], rules["dynamic"] = True, control.dynamic
        at_once = any(not link.delay_ps and link.src != link.dst for link in scene.topology.links)
        rules["by_link"] = control.dynamic or at_once
        rules["pause_above"] = 0 if control.pause_above == "dynamic" else control.pause_above
        rules["resume_at"], rules["resume_below"] = control.resume_at, control.resume_below


def queued_of(scene: Scene, links: np.ndarray, kinds: np.ndarray) -> Queued:
    """Records of links with queues, all empty."""
    limits, control = limits_of(scene), scene.flow_control
    queues = zeros(len(links) * scene.classes, record("Queue"))
    queues["first"] = queues["last"] = -1
    if control.kind == "pfc" and control.pause_above != "dynamic":
        queues["most"] = np.repeat(control.pause_above + np.array(limits.headroom, dtype=np.int64), scene.classes)
    served = zeros(len(links), record("Served"))
    served["pause_delay_ps"] = limits.pause_delay_ps
    rates, number = np.unique(kinds["rate_bps"], return_inverse=True)
    served["kind"] = 2 * number[links["kind"]]
    switches = np.zeros(max(limits.source) + 1, dtype=record("Switch"))
    if limits.pool:
        switches["pool"] = limits.pool
    endings = np.full(2 * len(rates), -1, dtype=record("Lane"))
    notes, frames = np.full(1, -1, dtype=record("Notes")), np.zeros(len(queues), dtype=np.int64)
    notes["frames"] = 0
    waiting = np.zeros(_PACKETS, dtype=record("Waiting"))
    return Queued(queues, waiting, served, switches, notes, frames, endings, *_turns(scene))


def _turns(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The last three fields of `Queued`, for deficit round robin between classes."""
    quanta = np.array(scene.quanta, dtype=np.int64)
    turns = np.zeros(
        (2 * len(scene.topology.links) if len(quanta) else 0, number("BYTES_LEFT") + len(quanta)), dtype=np.int64
    )
    turns[:, number("WHOSE_TURN")] = np.argmax(quanta > 0) if len(quanta) else 0
    return quanta, turns, np.zeros(len(quanta), dtype=np.int64)
