"""The driver: carries out a program unit by unit, until units cannot be separated."""

from collections.abc import Callable

import numpy as np

from netsim.engine import _core
from netsim.engine.exact.layout import layout_of
from netsim.engine.forward import progress as state
from netsim.engine.forward.library import Library
from netsim.engine.forward.likeness import likeness_of
from netsim.engine.forward.outcome import Followed, Occurrences, outcome_of
from netsim.engine.forward.unit import Simulator
from netsim.engine.limits import Clock, Pulse, Waiting, reached
from netsim.engine.protocol import Outcome, Scene, Skipped
from netsim.engine.queue_series import FIRST_WIDTH_PS, INTERVALS
from netsim.transport.build import build_transport
from netsim.transport.config import TransportConfig
from netsim.workload.tasks import TaskColumns, Tasks

_AHEAD = 1 << 14
"""Tasks among which messages are looked for that can be simulated in one go."""
_WORTHWHILE = 16
"""A part of fewer tasks than one in so many is simulated again with the rest: a program of the rest takes memory."""
_PATIENCE = 256
"""Units that may be simulated before they must have occurred twice in the mean."""


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
