"""The exact engine: open loops link after link, without a calendar, in the compiled core."""

from collections.abc import Callable

import numpy as np

from netsim.engine.exact.admission import Flows, admit
from netsim.engine.exact.injection import Cargo, cargo_of
from netsim.engine.exact.layout import Layout, layout_of
from netsim.engine.exact.messages import UNKNOWN, Messages, release_times
from netsim.engine.exact.refusal import refusal
from netsim.engine.exact.travel import travel
from netsim.engine.limits import Clock, Pulse, Waiting, reached
from netsim.engine.protocol import FLOW, Losses, Outcome, Scene
from netsim.engine.queue_series import series_of
from netsim.foundation.units import format_time
from netsim.transport.config import TransportConfig


class ExactEngine:
    """One run, equal to that of the reference engine to the last bit."""

    def __init__(
        self, scene: Scene, transport: TransportConfig, seed: int, report: Callable[[Pulse], None] | None = None
    ) -> None:
        reason = refusal(scene, transport)
        if reason is not None:
            raise ValueError(reason)
        self._scene, self._transport, self._seed = scene, transport, seed
        self._clock = Clock(scene.limits, report)

    def run(self) -> Outcome:
        """Simulates until all tasks are done."""
        layout = layout_of(self._scene)
        assert layout.messages is not None, "refused"
        flows = admit(layout, layout.messages, self._transport, self._seed)
        cargo = cargo_of(flows, layout.messages, self._scene.packet)
        what = self._scene, layout, layout.messages, flows, cargo
        figures = travel(*what, self._transport, self._seed, self._look_at_clock).figures
        task_end_ps = _task_ends(layout, layout.messages, flows, figures.receivers["end_ps"])
        self._refuse_late(task_end_ps)
        return Outcome(
            completion_ps=int(task_end_ps.max(initial=0)),
            task_end_ps=task_end_ps,
            packets=int(cargo.first[-1]),
            packet_hops=figures.hops,
            control_hops=0,
            losses=Losses(),
            flows=_described(flows, layout.messages, cargo, figures.receivers),
            links=figures.links.view(np.recarray),
            queues=series_of(figures.longest),
            last_sent=figures.last_sent,
        )

    def _look_at_clock(self) -> None:
        """Raises if the wall time is over; no task is done before the end, since links are served in turn."""
        scene = self._scene
        if self._clock.is_over(pulse := Pulse(0, 0, len(scene.tasks))):
            first = next(task for task in scene.tasks if not task.after)
            why = "the exact engine serves one link after the other and has not come to its last"
            raise reached(scene.limits, "wall", pulse, Waiting(first.src, first.dst, first.bytes, why))

    def _refuse_late(self, task_end_ps: np.ndarray) -> None:
        limit_ps = self._scene.limits.simulated
        late = np.flatnonzero(task_end_ps > limit_ps)
        if len(late):
            first = self._scene.tasks[int(late[0])]
            why = f"its last byte arrives at {format_time(int(task_end_ps[late[0]]))}"
            pulse = Pulse(limit_ps, len(task_end_ps) - len(late), len(task_end_ps))
            waiting = Waiting(first.src, first.dst, first.bytes, why)
            raise reached(self._scene.limits, "simulated", pulse, waiting)


def _task_ends(layout: Layout, messages: Messages, flows: Flows, flow_end_ps: np.ndarray) -> np.ndarray:
    """The end of each task, from the ends of its flows."""
    columns = layout.columns
    end_ps = np.full(len(columns.bytes), UNKNOWN, dtype=np.int64)
    if len(flow_end_ps):
        begin = np.flatnonzero(np.diff(flows.message, prepend=-1))
        end_ps[messages.task] = np.maximum.reduceat(flow_end_ps, begin)
    release_times(columns.delay_ps, columns.bytes, columns.after_begin, columns.after, end_ps)
    return end_ps


def _described(flows: Flows, messages: Messages, cargo: Cargo, receivers: np.ndarray) -> np.recarray:
    """Results of all flows, an array of `FLOW`."""
    records = np.zeros(len(flows.id), dtype=FLOW)
    records["id"], records["bytes"], records["packets"] = flows.id, flows.bytes, np.diff(cargo.first)
    for name, column in (("task", "task"), ("src", "src"), ("dst", "dst"), ("start_ps", "release_ps")):
        records[name] = getattr(messages, column)[flows.message]
    records["end_ps"], records["reordered"] = receivers["end_ps"], receivers["reordered"]
    return records.view(np.recarray)
