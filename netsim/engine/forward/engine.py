"""The driver: carries out a program unit by unit, and simulates the rest plainly where units cannot be told apart."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from netsim.engine.exact.layout import layout_of
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.queue_series import FIRST_WIDTH_PS, INTERVALS
from netsim.engine.forward import kernel
from netsim.engine.forward.clock import clock_of
from netsim.engine.forward.library import Library
from netsim.engine.forward.outcome import Occurrences, joined, outcome_of
from netsim.engine.forward.refusal import shares_groups
from netsim.engine.forward.unit import Simulator
from netsim.transport.build import build_transport
from netsim.transport.config import TransportConfig
from netsim.workload.protocol import TaskColumns, Tasks

_AHEAD = 1 << 14
"""Tasks among which messages are looked for that can be simulated in one go."""
_PATIENCE = 256
"""Units that may be simulated before at least as many others have been skipped."""


class Skipped(NamedTuple):
    """What was not simulated because an equal unit had been.

    Args:
        messages: Their number.
        bytes: Their payload.
    """

    messages: int = 0
    bytes: int = 0


class ForwardEngine:
    """One run, equal to a plain one to the last bit.

    Args:
        scene: Tasks and fabric; `netsim.engine.forward.refusal` does not refuse them.
        transport: Path choice.
        seed: Seed of the run.
        most_paths: Largest number of paths between two hosts that talk to each other.
        plain: Simulates a scene plainly.
    """

    def __init__(
        self,
        scene: Scene,
        transport: TransportConfig,
        seed: int,
        most_paths: int,
        plain: Callable[[Scene], Outcome],
    ) -> None:
        self._scene, self._plain = scene, plain
        layout = layout_of(scene)
        self._columns = scene.tasks.columns()
        self._stride = build_transport(transport, seed, most_paths).stride
        self._shares = shares_groups(scene, transport)
        self._library = Library(Simulator(scene, layout, transport, seed, self._stride), layout)
        self._kinds = self._library.kinds
        self._clock, self._depends = clock_of(self._columns, layout.fabric, np.asarray(scene.hosts, dtype=np.int64))

    def run(self) -> tuple[Outcome, Skipped]:
        """Simulates until all tasks are done.

        Returns:
            The outcome, and what was skipped.
        """
        clock, library = self._clock, self._library
        kernel.start(clock)
        while (why := kernel.run(clock, library.units, self._kinds)) != kernel.FINISHED:
            match why:
                case kernel.UNKNOWN:
                    self._look_ahead()
                case kernel.MEETING:
                    self._join()
                case kernel.TOGETHER if self._begin_together():
                    pass
                case _:
                    return self._with_the_rest()
            if library.units.count > _PATIENCE + int(clock.totals[kernel.UNITS]) // 2:
                return self._with_the_rest()
        whole = Occurrences.of(clock, int(clock.totals[kernel.UNITS]))
        return self._outcome(whole, clock.end_ps), self._skipped(whole)

    def _outcome(self, whole: Occurrences, end_ps: np.ndarray) -> Outcome:
        return outcome_of(self._scene, self._library.units, self._kinds.link, whole, end_ps, self._stride)

    def _width_ps(self) -> int:
        """Intervals of queues are at least that long in the end, since time has come so far."""
        width_ps = FIRST_WIDTH_PS
        while int(self._clock.totals[kernel.NOW]) // width_ps >= INTERVALS:
            width_ps *= 2
        return width_ps

    def _look_ahead(self) -> None:
        """Finds the kinds of the messages released now, and of those among the next tasks that wait for messages."""
        clock = self._clock
        released = clock.released[: clock.totals[kernel.RELEASED]]
        first = int(released.min())
        ahead = np.arange(first, min(first + _AHEAD, len(clock.bytes)))
        ahead = ahead[(clock.bytes[ahead] > 0) & self._depends[ahead]]
        tasks = np.concatenate([released, ahead])
        clock.kind[tasks] = self._library.kinds_of(tasks, self._width_ps())
        self._kinds = self._library.kinds

    def _join(self) -> None:
        """Simulates a unit together with a message that meets it under way."""
        clock, units = self._clock, self._library.units
        met, task, now_ps = (int(clock.totals[entry]) for entry in (kernel.MET, kernel.MEETS, kernel.NOW))
        unit, after_ps = int(clock.unit[met]), now_ps - int(clock.unit_ps[met])
        tasks = np.append(clock.laid[clock.unit_begin[met] : clock.unit_begin[met + 1]], task)
        starts_ps = units.start_ps[units.message_begin[unit] : units.message_begin[unit + 1]]
        binding = int(clock.binding[met])
        joint = self._library.joint(tasks, np.append(starts_ps, after_ps), binding, self._width_ps())
        kernel.remember(clock, unit, int(self._kinds.unit[clock.kind[task]]), after_ps, joint)

    def _begin_together(self) -> bool:
        """Begins those of the released messages that share links, as units; False if one would meet another."""
        clock, library, width_ps = self._clock, self._library, self._width_ps()
        tasks = np.sort(clock.released[: clock.totals[kernel.RELEASED]])
        groups, alone = library.groups_of(tasks)
        for group in groups:
            numbered = not self._shares and len(np.unique(clock.first_link[group])) < len(group)
            unit, binding = library.group(group, width_ps, numbered=numbered)
            self._kinds = library.kinds
            if not kernel.place(clock, library.units, self._kinds.link, unit, binding, group):
                return False
        clock.released[: len(alone)] = alone
        clock.totals[kernel.RELEASED] = len(alone)
        return True

    def _with_the_rest(self) -> tuple[Outcome, Skipped]:
        """The outcome up to the last moment at which nothing was under way, joined with a plain run of the rest."""
        clock, columns = self._clock, self._columns
        idle_ps, units = int(clock.totals[kernel.IDLE]), int(clock.totals[kernel.IDLE_UNITS])
        if not units:
            return self._plain(self._scene), Skipped()
        whole = Occurrences.of(clock, units)
        moved = columns.bytes == 0
        moved[whole.tasks] = True
        done = moved & (clock.end_ps >= 0) & (clock.end_ps <= idle_ps)
        end_ps = np.where(done, clock.end_ps, -1)
        rest = self._plain(self._scene._replace(tasks=_rest_of(columns, done, end_ps)))
        return joined(self._outcome(whole, end_ps), rest), self._skipped(whole)

    def _skipped(self, whole: Occurrences) -> Skipped:
        """What all occurrences of units but the first of each carry."""
        _, first = np.unique(whole.unit, return_index=True)
        again = whole.unit >= 0
        again[first] = False
        tasks = whole.tasks[np.repeat(again, np.diff(whole.begin))]
        return Skipped(len(tasks), int(self._columns.bytes[tasks].sum()))


def _rest_of(columns: TaskColumns, done: np.ndarray, end_ps: np.ndarray) -> Tasks:
    """The program in which every task that is done merely waits until its end; numbers of tasks stay."""
    waits_for = np.diff(columns.after_begin)
    kept = np.repeat(~done, waits_for)
    begin = np.concatenate([[0], np.cumsum(np.where(done, 0, waits_for))])
    size, delay_ps = np.where(done, 0, columns.bytes), np.where(done, end_ps, columns.delay_ps)
    return Tasks.of_columns(
        columns._replace(bytes=size, delay_ps=delay_ps, after_begin=begin, after=columns.after[kept])
    )
