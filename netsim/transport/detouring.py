"""Transports that may leave the minimal paths, on fabrics that have others: dragonflies and tori."""

from collections.abc import Callable
from typing import ClassVar, Literal

from netsim.draws import Draws, Purpose, stream
from netsim.foundation.units import Duration
from netsim.transport.protocol import Flow, Transport, TransportSettings

Backlog = Callable[[int], int]


class Valiant(Transport):
    """Each packet takes a random detour, whatever the traffic is; a minimal path where there is no detour.

    Valiant, Brebner: Universal schemes for parallel communication, STOC 1981.
    """

    takes_detours = needs_packets = True

    def __init__(self, seed: int, most_paths: int) -> None:
        super().__init__(seed, most_paths)
        self._draws = Draws(seed, Purpose.DETOUR)

    def constants(self) -> dict[str, int | float | str]:
        return {"choice": "DETOURING", "path_draws": stream(self.seed, Purpose.DETOUR)}

    @property
    def stride(self) -> int:
        """Returns 1: messages are not cut."""
        return 1

    def choose_path(self, flow: Flow, serial: int, usable: tuple[int, ...], now_ps: int) -> int:  # noqa: ARG002
        """A detour by the draw of the packet."""
        detours = [path for path in usable if path >= flow.message.minimal] or usable
        return detours[self._draws(self.key_of(flow), serial) % len(detours)]


class Ugal(Transport):
    """The first switch lets each packet choose between a random minimal path and a random detour, by its own queues.

    The minimal path is taken unless queue times length is larger for it than for the detour, by more than `bias`. A
    queue is the unfinished work in front of a path's first link; a length is the number of links between switches.

    UGAL-L of Singh: Load-Balanced Routing in Interconnection Networks, 2005; Kim et al., ISCA 2008, section 4.
    """

    takes_detours = needs_packets = at_first_switch = True

    def __init__(self, seed: int, most_paths: int, bias: int = 0) -> None:
        super().__init__(seed, most_paths)
        self.bias_ps = bias
        self._minimal, self._detour = Draws(seed, Purpose.MINIMAL), Draws(seed, Purpose.DETOUR)

    def constants(self) -> dict[str, int | float | str]:
        return {
            "choice": "AT_FIRST_SWITCH",
            "path_draws": stream(self.seed, Purpose.DETOUR),
            "other_draws": stream(self.seed, Purpose.MINIMAL),
            "bias_ps": self.bias_ps,
        }

    @property
    def stride(self) -> int:
        """Returns 1: messages are not cut."""
        return 1

    def choose_path_at_switch(self, flow: Flow, serial: int, usable: tuple[int, ...], backlog_ps: Backlog) -> int:
        """The better of two paths that are drawn, at the first switch."""
        paths, first = flow.message.paths, flow.message.minimal
        detours = [path for path in usable if path >= first]
        minimal = [path for path in usable if path < first]
        if not minimal or not detours:
            both = minimal or detours
            return both[self._minimal(self.key_of(flow), serial) % len(both)]
        short = minimal[self._minimal(self.key_of(flow), serial) % len(minimal)]
        long = detours[self._detour(self.key_of(flow), serial) % len(detours)]

        def cost(path: int) -> int:
            return backlog_ps(paths[path][1]) * (len(paths[path]) - 2)

        return short if cost(short) <= cost(long) + self.bias_ps else long


class UgalConfig(TransportSettings):
    """The first switch chooses between a minimal path and a detour, by its own queues.

    Args:
        bias: Advantage of the minimal path over the detour, as service time of unfinished work times number of links.
    """

    transport: ClassVar[type[Transport]] = Ugal

    kind: Literal["ugal"]
    bias: Duration = 0
