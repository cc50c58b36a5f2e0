"""The windowed engine: what the event engine simulates, faster the more hosts there are."""

import numpy as np

from netsim.engine.event.choices import AT_FIRST_SWITCH, AT_SWITCH
from netsim.engine.event.engine import EventEngine
from netsim.engine.event.program import DONE
from netsim.engine.event.room import with_room_for_waiting
from netsim.engine.limits import Pulse, Waiting, Which, reached
from netsim.engine.windowed import kernel
from netsim.engine.windowed.endings import no_endings
from netsim.engine.windowed.wheel import wheel_of, with_room, with_timers
from netsim.errors import InputError


class WindowedEngine(EventEngine):
    """One run; see `netsim.engine.windowed.refusal` for what it does not simulate.

    Args:
        scene: What must happen, and where.
        transport: Path choice.
        seed: Seed of the run, for the order of destinations and for marks.
        fabric: The scene's fabric as arrays; None: they are made.
    """

    _impatient: tuple[int, int, Waiting] | None = None
    """When the first flow lost its patience, its id, and what waits; the run ends with the window."""

    def _prepare(self) -> None:
        network = self._state.network
        links, rules = network.links, network.rules[0]
        delay_ps = network.kinds["delay_ps"][links["kind"]]
        between = delay_ps[links["reverse"] != np.arange(len(links))]
        queued, by_switch = self._state.queued, bool(rules["choice"] in (AT_SWITCH, AT_FIRST_SWITCH))
        if queued is not None:
            endings = no_endings(int(self._state.routing.source.max()) + 1)
            self._keep(self._state._replace(queued=queued._replace(endings=endings)))
            by_switch = True
        self._wheel = wheel_of(self._state, int(between.min()), by_switch)

    def _go_on(self, resumed: int) -> int:
        self._wheel = with_timers(self._wheel, len(self._state.hosts.timers), 2 * len(self._state.hosts.rings))
        why = kernel.run(self._arrays, tuple(self._wheel), resumed)
        return kernel.IN_TIME if self._impatient is not None and why == kernel.FINISHED else why

    def _make_room(self) -> None:
        self._wheel = with_room(self._wheel, self._state.queued)
        self._keep(with_room_for_waiting(self._state, len(self._wheel.held)))

    def _flows_of_packets(self) -> list[np.ndarray]:
        return [self._wheel.packets["flow"], self._wheel.held["flow"]]

    def _lose_patience(self, record: np.void) -> None:
        """Lets the window go on, in which other hosts may not have come as far as this flow's."""
        network, task = self._state.network, int(record["task"])
        found = int(network.totals["now_ps"][0]), int(record["id"])
        if self._impatient is None or found < self._impatient[:2]:
            self._impatient = *found, self._waiting(task)
            network.rules["end_ps"] = network.rules["limit_ps"] = found[0]

    def _reached(self, which: Which, task: int | None = None) -> InputError:
        if self._impatient is None:
            return super()._reached(which, task)
        now_ps, _, waiting = self._impatient
        program = self._state.program
        done = int(((program.waits_for == DONE) & (program.end_ps <= now_ps) | (program.background > 0)).sum())
        return reached(self._scene.limits, "fruitless", Pulse(now_ps, done, len(program.end_ps)), waiting)
