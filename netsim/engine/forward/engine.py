"""Carries out a program unit by unit, equal units once, until units cannot be separated; the rest runs whole."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from netsim.engine import _core
from netsim.engine.exact.layout import layout_of
from netsim.engine.forward import progress as state
from netsim.engine.forward.library import Library
from netsim.engine.forward.likeness import likeness_of
from netsim.engine.forward.progress import Progress
from netsim.engine.forward.unit import Simulator, Units
from netsim.engine.limits import Clock, Pulse, Waiting, reached
from netsim.engine.protocol import FLOW, LINK, Losses, Outcome, QueueSeries, Scene, Skipped
from netsim.engine.queue_series import FIRST_WIDTH_PS, INTERVALS, no_queues, series_of
from netsim.transport.build import build_transport
from netsim.transport.config import TransportConfig
from netsim.workload.tasks import TaskColumns, Tasks


class Occurrences(NamedTuple):
    """Units that have begun, in the order of their releases."""

    unit: np.ndarray  # of each occurrence; -1 if it is part of a later one
    binding: np.ndarray  # first entry of its links in `Kinds.link`
    release_ps: np.ndarray  # when its first message was released
    begin: np.ndarray  # its first entry in `tasks`, and the end of the last
    tasks: np.ndarray  # their messages

    @classmethod
    def of(cls, progress: Progress, units: int) -> "Occurrences":
        """The first `units` of them."""
        begin = progress.unit_begin[: units + 1]
        return cls(
            progress.unit[:units], progress.binding[:units], progress.unit_ps[:units], begin, progress.laid[: begin[-1]]
        )


class Followed(NamedTuple):
    """How far a program was followed unit by unit."""

    outcome: Outcome | None  # of the part that was followed; None if there is none
    # The scene that is left, in which tasks that are done merely wait until their ends; None if nothing is
    rest: Scene | None
    skipped: Skipped  # what was skipped

    def whole(self, simulate: Callable[[Scene], Outcome]) -> Outcome:
        """The outcome of the whole program."""
        if self.rest is None:
            assert self.outcome is not None
            return self.outcome
        later = simulate(self.rest)
        return later if self.outcome is None else _joined(self.outcome, later)


def outcome_of(
    scene: Scene, units: Units, bound_links: np.ndarray, whole: Occurrences, task_end_ps: np.ndarray, stride: int
) -> Outcome:
    """The outcome of all occurrences."""
    columns = scene.tasks.columns()
    times = np.bincount(whole.unit[whole.unit >= 0], minlength=units.count)
    first_flow = np.zeros(len(task_end_ps) + 1, dtype=np.int64)
    _core.count_flows(units, whole, first_flow)
    first_flow = np.cumsum(first_flow)
    flows = np.zeros(int(first_flow[-1]), dtype=FLOW)
    links = np.zeros(len(scene.topology.links), dtype=LINK)
    last_sent, longest = np.full(len(links), -1, dtype=np.int64), no_queues()
    figures, ranks = (flows, links, last_sent), (columns.src, columns.dst)
    _core.fill_figures(units, bound_links, whole, first_flow, *ranks, stride, figures, longest)
    packets = _sums(units.packets, units.flow_begin)
    hops = _sums(units.link_packets, units.link_begin)
    sends = np.flatnonzero(last_sent >= 0)
    return Outcome(
        completion_ps=int(task_end_ps.max(initial=0)),
        task_end_ps=task_end_ps,
        packets=int(times @ packets),
        packet_hops=int(times @ hops),
        control_hops=0,
        losses=Losses(),
        flows=flows.view(np.recarray),
        links=links.view(np.recarray),
        queues=series_of(longest),
        last_sent=dict(zip(sends.tolist(), last_sent[sends].tolist(), strict=True)),
    )


def _joined(before: Outcome, after: Outcome) -> Outcome:
    """The outcome of a part, with ends -1 of all other tasks, and of the rest, which begins on an idle network."""
    flows = np.concatenate([before.flows, after.flows])
    links = np.zeros(len(before.links), dtype=LINK)
    for name in ("bytes", "busy_ps", "paused_ps"):
        links[name] = before.links[name] + after.links[name]
    links["max_queue_ps"] = np.maximum(before.links["max_queue_ps"], after.links["max_queue_ps"])
    return after._replace(
        packets=before.packets + after.packets,
        packet_hops=before.packet_hops + after.packet_hops,
        flows=flows[np.argsort(flows["id"], kind="stable")].view(np.recarray),
        links=links.view(np.recarray),
        queues=_both(before.queues, after.queues),
        last_sent=before.last_sent | after.last_sent,
    )


def _both(first: QueueSeries, second: QueueSeries) -> QueueSeries:
    """The longest queue of both series, in the wider intervals of the two."""
    width_ps = max(first.width_ps, second.width_ps)
    parts = []
    for series in (first, second):
        narrow = np.arange(len(series.max_queue_ps)) // (width_ps // series.width_ps)
        wide = np.zeros(int(narrow.max(initial=-1)) + 1, dtype=np.int64)
        np.maximum.at(wide, narrow, series.max_queue_ps)
        parts.append(wide)
    longest = np.zeros(max(map(len, parts)), dtype=np.int64)
    for wide in parts:
        longest[: len(wide)] = np.maximum(longest[: len(wide)], wide)
    return QueueSeries(width_ps, longest)


def _sums(values: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """Sum of the values of each group."""
    total = np.concatenate([[0], np.cumsum(values)])
    return total[begin[1:]] - total[begin[:-1]]


_AHEAD = 1 << 14
"""Tasks that are searched for messages to simulate together."""
_WORTHWHILE = 16
"""A simulated part smaller than this share of the program is simulated again with the rest, which saves memory."""
_PATIENCE = 256
"""Units that may be simulated before units must have occurred twice on average."""


class ForwardEngine:
    """One run, equal to a plain one to the last bit."""

    def __init__(
        self,
        scene: Scene,
        transport: TransportConfig,
        seed: int,
        most_paths: int,
        report: Callable[[Pulse], None] | None = None,
    ) -> None:
        self._scene = scene
        self._wall = Clock(scene.limits, report)
        layout = layout_of(scene)
        self._columns = scene.tasks.columns()
        self._stride = build_transport(transport, seed, most_paths).stride
        likeness = likeness_of(scene, transport)
        self._library = Library(Simulator(scene, layout, transport, seed, self._stride), layout, likeness)
        self._kinds = self._library.kinds
        hosts = np.asarray(scene.hosts, dtype=np.int64)
        self._progress = state.progress_of(self._columns, layout.fabric, hosts)
        self._patience = _PATIENCE + (_distinct(scene.tasks) if likeness.drawn_alone else 0)
        self._joints = 0
        self._progress.totals[state.GATHERS] = scene.tasks.keys is not None and likeness.overlaps
        fabric = layout.fabric
        rates = fabric.rate_bps[fabric.change_begin[:-1]]
        byte_ps = 8e12 / np.maximum(rates, 1)
        self._ends = state.Ends(self._columns.dst, fabric.up[hosts], byte_ps, scene.packet.payload, scene.packet.header)

    def run(self) -> Followed:
        """Simulates until units can no longer be separated; returns the part that was followed, and the rest."""
        progress, library = self._progress, self._library
        _core.start_program(progress)
        while (why := _core.run_program(progress, library.units, self._kinds)) != state.FINISHED:
            self._look_at_wall()
            match why:
                case state.UNKNOWN:
                    self._look_ahead()
                case state.MEETING:
                    self._join()
                case state.TOGETHER if self._begin_together():
                    pass
                case _:
                    return self._so_far()
            patience = self._patience + int(progress.totals[state.UNITS]) // 2
            if library.units.count > patience or self._joints > len(progress.joint_unit) // 2:
                return self._so_far()
        whole = Occurrences.of(progress, int(progress.totals[state.UNITS]))
        return Followed(self._outcome(whole, progress.end_ps), None, self._skipped(whole))

    def _outcome(self, whole: Occurrences, end_ps: np.ndarray) -> Outcome:
        return outcome_of(self._scene, self._library.units, self._kinds.link, whole, end_ps, self._stride)

    def _look_at_wall(self) -> None:
        progress, columns = self._progress, self._columns
        pulse = Pulse(int(progress.totals[state.NOW]), int(progress.totals[state.DONE]), len(progress.end_ps))
        if self._wall.is_over(pulse):
            task = int(progress.released[0])
            ends = int(columns.src[task]), int(columns.dst[task]), int(columns.bytes[task])
            raise reached(self._scene.limits, "wall", pulse, Waiting(*ends, "it has just been released"))

    def _width_ps(self) -> int:
        """Width of the intervals of queue series at the present time; at the end it is at least that."""
        width_ps = FIRST_WIDTH_PS
        while int(self._progress.totals[state.NOW]) // width_ps >= INTERVALS:
            width_ps *= 2
        return width_ps

    def _look_ahead(self) -> None:
        """Finds the kinds of the messages released now, and of messages among the next tasks that wait for others."""
        progress = self._progress
        released = progress.released[: progress.totals[state.RELEASED]]
        first = int(released.min())
        ahead = np.arange(first, min(first + _AHEAD, len(progress.bytes)))
        ahead = ahead[(progress.bytes[ahead] > 0) & _depends(self._columns, ahead) & (progress.kind[ahead] < 0)]
        tasks = np.concatenate([released, ahead])
        progress.kind[tasks] = self._library.kinds_of(tasks, self._width_ps())
        self._kinds = self._library.kinds

    def _join(self) -> None:
        """Simulates a unit anew, together with a message that meets it on a link."""
        progress, units = self._progress, self._library.units
        met, task, now_ps = (int(progress.totals[entry]) for entry in (state.MET, state.MEETS, state.NOW))
        unit, after_ps = int(progress.unit[met]), now_ps - int(progress.unit_ps[met])
        tasks = np.append(progress.laid[progress.unit_begin[met] : progress.unit_begin[met + 1]], task)
        starts_ps = units.start_ps[units.message_begin[unit] : units.message_begin[unit + 1]]
        binding = int(progress.binding[met])
        joint = self._library.joint(tasks, np.append(starts_ps, after_ps), binding, self._width_ps())
        self._joints += 1
        _core.remember_joint(progress, unit, int(self._kinds.unit[progress.kind[task]]), after_ps, joint)

    def _begin_together(self) -> bool:
        """Begins units of the known messages that share links; returns False if a unit would meet another on a link."""
        progress, library, width_ps = self._progress, self._library, self._width_ps()
        tasks, release_ps = self._known()
        groups, alone = library.groups_of(tasks, release_ps)
        for places in groups:
            group, first_ps = tasks[places], release_ps[places].min()
            several = len(np.unique(progress.first_link[group])) < len(group)
            unit, binding = library.group(group, release_ps[places] - first_ps, width_ps, several=several)
            self._kinds = library.kinds
            begin_ps = int(progress.totals[state.NOW] + first_ps)
            if not _core.place_unit(progress, library.units, self._kinds.link, unit, binding, begin_ps, group):
                return False
        left = [place for place in alone if not release_ps[place]]
        progress.released[: len(left)] = tasks[left]
        progress.totals[state.RELEASED] = len(left)
        return True

    def _known(self) -> tuple[np.ndarray, np.ndarray]:
        """Messages released now and, where units gather them, soon, ascending; and ps until their release."""
        progress = self._progress
        if progress.totals[state.GATHERS]:
            tasks, release_ps = state.wave(progress, self._ends)
            order = np.argsort(tasks)
            return tasks[order], release_ps[order] - progress.totals[state.NOW]
        tasks = np.sort(progress.released[: progress.totals[state.RELEASED]])
        return tasks, np.zeros_like(tasks)

    def _so_far(self) -> Followed:
        """The part of the program up to the last moment at which the network was idle, and the rest to simulate."""
        progress, columns = self._progress, self._columns
        idle_ps, units = int(progress.totals[state.IDLE]), int(progress.totals[state.IDLE_UNITS])
        if not units:
            return Followed(None, self._scene, Skipped())
        whole = Occurrences.of(progress, units)
        moved = columns.bytes == 0
        moved[whole.tasks] = True
        done = moved & (progress.end_ps >= 0) & (progress.end_ps <= idle_ps)
        if np.count_nonzero(done) * _WORTHWHILE < len(done):
            return Followed(None, self._scene, Skipped())
        end_ps = np.where(done, progress.end_ps, -1)
        rest = self._scene._replace(tasks=_rest_of(self._scene.tasks, done, end_ps))
        return Followed(self._outcome(whole, end_ps), rest, self._skipped(whole))

    def _skipped(self, whole: Occurrences) -> Skipped:
        """Messages and bytes of repeated units, of which the first occurrence alone is simulated."""
        _, first = np.unique(whole.unit, return_index=True)
        again = whole.unit >= 0
        again[first] = False
        tasks = whole.tasks[np.repeat(again, np.diff(whole.begin))]
        return Skipped(len(tasks), int(self._columns.bytes[tasks].sum()))


def _depends(columns: TaskColumns, tasks: np.ndarray) -> np.ndarray:
    """Whether each of some tasks, which follow each other, waits for a message."""
    begin = columns.after_begin[tasks[0] : tasks[-1] + 2]
    messages = np.concatenate([[0], np.cumsum(columns.bytes[columns.after[begin[0] : begin[-1]]] > 0)])
    return np.diff(messages[begin - begin[0]]) > 0


def _distinct(tasks: Tasks) -> int:
    """Number of messages with draws of their own, if at least half share another message's draws; else 0."""
    messages = np.flatnonzero(tasks.columns().bytes)
    own = len(messages) if tasks.keys is None else int((tasks.keys[messages] == messages).sum())
    return own if 2 * own <= len(messages) else 0


def _rest_of(tasks: Tasks, done: np.ndarray, end_ps: np.ndarray) -> Tasks:
    """The program with every task that is done replaced by a wait until its end; tasks keep their numbers."""
    columns = tasks.columns()
    waits_for = np.diff(columns.after_begin)
    kept = np.repeat(~done, waits_for)
    begin = np.concatenate([[0], np.cumsum(np.where(done, 0, waits_for))])
    size, delay_ps = np.where(done, 0, columns.bytes), np.where(done, end_ps, columns.delay_ps)
    return tasks.with_columns(
        columns._replace(bytes=size, delay_ps=delay_ps, after_begin=begin, after=columns.after[kept])
    )
