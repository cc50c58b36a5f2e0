"""The windowed engine: what the event engine simulates, faster the more hosts there are."""

import numpy as np

from netsim.engine.event.choices import AT_FIRST_SWITCH, AT_SWITCH
from netsim.engine.event.engine import EventEngine
from netsim.engine.windowed import kernel
from netsim.engine.windowed.wheel import wheel_of, with_room, with_timers


class WindowedEngine(EventEngine):
    """One run; see `netsim.engine.windowed.refusal` for what it does not simulate.

    Args:
        scene: What must happen, and where.
        transport: Path choice.
        seed: Seed of the run, for the order of destinations and for marks.
        fabric: The scene's fabric as arrays; None: they are made.
    """

    def _prepare(self) -> None:
        links, rules = self._state.network.links, self._state.network.rules[0]
        between = links["delay_ps"][links["reverse"] != np.arange(len(links))]
        self._wheel = wheel_of(self._state, int(between.min()), bool(rules["choice"] in (AT_SWITCH, AT_FIRST_SWITCH)))

    def _go_on(self, resumed: int) -> int:
        self._wheel = with_timers(self._wheel, len(self._state.hosts.timers))
        return kernel.run(self._arrays, tuple(self._wheel), resumed)

    def _make_room(self) -> None:
        self._wheel = with_room(self._wheel)

    def _flows_of_packets(self) -> np.ndarray:
        return self._wheel.packets["flow"]
