"""The windowed engine: equal to the event engine, and faster on fabrics with many hosts."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from netsim.engine import _core
from netsim.engine.core.fabric import FabricArrays
from netsim.engine.core.shared import names, number
from netsim.engine.event.engine import EventEngine, arrays_of
from netsim.engine.event.room import with_room_for_waiting
from netsim.engine.event.state import State
from netsim.engine.limits import Pulse, Waiting, Which, reached
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.windowed.shares import LEADER, add_up, share_of, shares_of, with_longer_timers
from netsim.engine.windowed.wheel_layout import wheels_of, with_room, with_timers
from netsim.foundation.refusal import Refusal
from netsim.transport.protocol import Transport


class WindowedEngine(EventEngine):
    """One run; outcomes do not depend on `threads`. `netsim.engine.windowed.refusal` lists runs that it refuses."""

    _impatient: tuple[int, int, Waiting] | None = None
    """Time, flow id and reason of the first flow that lost its patience; the run ends with the window."""

    def __init__(
        self,
        scene: Scene,
        transport: Transport,
        seed: int,
        fabric: FabricArrays | None = None,
        report: Callable[[Pulse], None] | None = None,
        threads: int = 1,
    ) -> None:
        self._threads = threads
        super().__init__(scene, transport, seed, fabric, report)

    def run(self) -> Outcome:
        """Simulates the scene."""
        with ThreadPoolExecutor(self._threads, "netsim") as self._others:
            return super().run()

    def _prepare(self, state: State) -> None:
        network = state.network
        links, rules = network.links, network.rules[0]
        delay_ps = network.kinds["delay_ps"][links["kind"]]
        between = delay_ps[links["reverse"] != np.arange(len(links))]
        by_switch = state.queued is not None or bool(
            rules["choice"] in (number("AT_SWITCH"), number("AT_FIRST_SWITCH"))
        )
        self._shares = shares_of(state, self._threads)
        self._wheels = wheels_of(state, int(between.min()), by_switch, self._threads)
        self._stops: list[tuple[int, str]] = []
        self._stopped, self._resumed, self._now_ps = LEADER, [-1] * self._threads, int(network.totals["now_ps"][0])
        self._keep(state)

    def _keep(self, state: State) -> None:
        self._shares = with_longer_timers(self._shares, state)
        of_threads = [share_of(state, self._shares, thread) for thread in range(self._threads)]
        super()._keep(of_threads[LEADER])
        self._arrays_of_threads = [arrays_of(of_thread) for of_thread in of_threads]

    def _go_on(self, resumed: int) -> str:
        """Returns why a thread has stopped, thread by thread; after the last of them all threads simulate again.

        The leader's time and flow are those of the thread whose stop is returned.
        """
        totals = self._shares.totals[:, 0]
        self._resumed[self._stopped] = resumed
        if not self._stops:
            totals["now_ps"][LEADER] = self._now_ps
            self._stops = self._simulate()
            self._now_ps = int(totals["now_ps"][LEADER])
        self._stopped, why = self._stops.pop(0)
        for name in ("asks", "now_ps"):
            totals[name][LEADER] = totals[name][self._stopped]
        if why == "FINISHED":
            add_up(self._shares)
        return "IN_TIME" if self._impatient is not None and why == "FINISHED" else why

    def _simulate(self) -> list[tuple[int, str]]:
        """Lets all threads simulate until some must stop; returns which, and why."""
        self._wheels = with_timers(self._wheels, len(self._state.hosts.timers), 2 * len(self._state.hosts.rings))
        common = tuple(self._shares), tuple(self._wheels)
        calls = [
            (arrays, *common, thread, flow)
            for thread, (arrays, flow) in enumerate(zip(self._arrays_of_threads, self._resumed, strict=True))
        ]
        others = [self._others.submit(_core.run_windows, *call) for call in calls[LEADER + 1 :]]
        reasons = [_core.run_windows(*calls[LEADER]), *(other.result() for other in others)]
        self._resumed = [-1] * self._threads
        return [(thread, names("Stop")[why]) for thread, why in enumerate(reasons) if why != number("GOES_ON")]

    def _make_room(self) -> None:
        self._wheels = with_room(self._wheels, None if self._state.queued is None else self._shares.notes)
        self._keep(with_room_for_waiting(self._state, len(self._wheels.held)))

    def _flows_of_packets(self) -> list[np.ndarray]:
        return [self._wheels.packets["flow"], self._wheels.held["flow"]]

    def _lose_patience(self, record: np.void) -> None:
        """Notes an impatient flow and lets the window end, as other hosts may not have come as far in time."""
        network, task = self._state.network, int(record["task"])
        found = int(network.totals["now_ps"][0]), int(record["id"])
        if self._impatient is None or found < self._impatient[:2]:
            self._impatient = *found, self._waiting(task)
            network.rules["end_ps"] = network.rules["limit_ps"] = found[0]

    def _reached(self, which: Which, task: int | None = None) -> Refusal:
        if self._impatient is None:
            return super()._reached(which, task)
        now_ps, _, waiting = self._impatient
        program = self._state.program
        done = int(
            ((program.waits_for == number("DONE")) & (program.end_ps <= now_ps) | (program.background > 0)).sum()
        )
        return reached(self._scene.limits, "fruitless", Pulse(now_ps, done, len(program.end_ps)), waiting)
