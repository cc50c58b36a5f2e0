"""Flowlet switching: a flow may change its path after a pause that is long enough to avoid reordering."""

from typing import ClassVar, Literal

from netsim.draws import Draws, Purpose, stream
from netsim.foundation.units import Duration
from netsim.transport.protocol import Flow, Transport, TransportSettings


class Flowlet(Transport):
    """After a gap in a flow its next packets take a path that is drawn anew.

    Vanini et al.: Let It Flow: Resilient Asymmetric Load Balancing with Flowlet Switching, NSDI 2017.
    """

    needs_packets = True

    def __init__(self, seed: int, most_paths: int, gap: int) -> None:
        super().__init__(seed, most_paths)
        self.gap_ps = gap
        self._draws = Draws(seed, Purpose.FLOWLET_PATH)
        self._last: dict[int, tuple[int, int]] = {}

    def constants(self) -> dict[str, int | float | str]:
        return {"choice": "FLOWLET", "path_draws": stream(self.seed, Purpose.FLOWLET_PATH), "gap_ps": self.gap_ps}

    def choose_path(self, flow: Flow, serial: int, usable: tuple[int, ...], now_ps: int) -> int:
        """The path of the flow's last packet, or a new draw after a gap or if that path has failed."""
        left_ps, path = self._last.get(flow.id, (0, -1))
        if path not in usable or now_ps - left_ps > self.gap_ps:
            path = usable[self._draws(self.key_of(flow), serial) % len(usable)]
        self._last[flow.id] = now_ps, path
        return path


class FlowletConfig(TransportSettings):
    """After a pause a flow takes a path that is drawn anew.

    Args:
        gap: Shortest pause of a flow that begins a new flowlet; about the largest difference between path delays.
    """

    transport: ClassVar[type[Transport]] = Flowlet

    kind: Literal["flowlet"]
    gap: Duration = 10 * 10**6
