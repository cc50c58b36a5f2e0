"""Packet spraying: every packet of a flow may take another path, and packets may overtake each other."""

from collections import Counter
from typing import ClassVar, Literal

from pydantic import model_validator

from netsim.draws import Draws, Purpose, stream
from netsim.transport.protocol import Entropies, Flow, Transport, TransportSettings

Order = Literal["drawn", "rounds"]


class SprayRandom(Transport):
    """Each packet draws its path."""

    def __init__(self, seed: int, most_paths: int, entropies: int | None = None, order: Order | None = None) -> None:
        super().__init__(seed, most_paths)
        self.entropies, self.in_rounds = entropies, order == "rounds"
        self.needs_packets = entropies is not None
        self._draws = Draws(seed, Purpose.SPRAY_PATH)
        self._paths = Draws(seed, Purpose.ENTROPY_PATH)

    def constants(self) -> dict[str, int | float | str]:
        return {
            "choice": "SPRAY_RANDOM",
            "path_draws": stream(self.seed, Purpose.SPRAY_PATH),
            "entropies": self.entropies or 0,
            "in_rounds": self.in_rounds,
        }

    def choose_path(self, flow: Flow, serial: int, usable: tuple[int, ...], now_ps: int) -> int:  # noqa: ARG002
        """A uniform draw over the paths, or the path that the packet's header value leads to."""
        key = self.key_of(flow)
        if not self.entropies:
            return usable[self._draws(key, serial) % len(usable)]
        turn, number = divmod(serial, self.entropies) if self.in_rounds else (serial, 0)
        value = (self._draws(key, turn) + number) % self.entropies
        return usable[self._paths(key, value) % len(usable)]


class SprayConfig(TransportSettings):
    """Each packet draws its path.

    Args:
        entropies: Number of values of the header field from which a packet draws. Switches' hashes lead each value of a
            flow to a path, so that some paths have many values and others none. null: one value for each path.
        order: Order in which a flow takes the header values. drawn, or null: each packet draws any value; rounds: the
            flow takes all values in turn, again and again, each round from a drawn value on.
    """

    transport: ClassVar[type[Transport]] = SprayRandom

    kind: Literal["spray_random"]
    entropies: Entropies = None
    order: Order | None = None

    @model_validator(mode="after")
    def _of_values(self) -> "SprayConfig":
        if self.order == "rounds" and self.entropies is None:
            raise ValueError("order: rounds is for header values; write entropies, or leave order out")
        return self


class SprayRoundRobin(Transport):
    """Each host counts its packets, whatever their destination, from a random start; the count picks the path."""

    def __init__(self, seed: int, most_paths: int) -> None:
        super().__init__(seed, most_paths)
        self._draws = Draws(seed, Purpose.SPRAY_START)
        self._sent: Counter[int] = Counter()

    def constants(self) -> dict[str, int | float | str]:
        return {"choice": "SPRAY_ROUND_ROBIN", "path_draws": stream(self.seed, Purpose.SPRAY_START)}

    def choose_path(self, flow: Flow, serial: int, usable: tuple[int, ...], now_ps: int) -> int:  # noqa: ARG002
        """The path after the one of the host's last packet."""
        nic = flow.message.paths[0][0]
        self._sent[nic] += 1
        return usable[(self._draws(nic) + self._sent[nic]) % len(usable)]


class DestinationRotation(Transport):
    """Each host counts its packets to each leaf from a random start; the count picks the path (DRB).

    Cao et al.: Per-packet load-balanced, low-latency routing for Clos-based data center networks, CoNEXT 2013.
    """

    def __init__(self, seed: int, most_paths: int) -> None:
        super().__init__(seed, most_paths)
        self._draws = Draws(seed, Purpose.ROTATION_START)
        self._sent: Counter[tuple[int, int]] = Counter()

    def constants(self) -> dict[str, int | float | str]:
        return {"choice": "ROTATION", "path_draws": stream(self.seed, Purpose.ROTATION_START)}

    def choose_path(self, flow: Flow, serial: int, usable: tuple[int, ...], now_ps: int) -> int:  # noqa: ARG002
        """The path after the one of the host's last packet to that leaf."""
        pair = flow.message.paths[0][0], flow.message.dst_leaf
        self._sent[pair] += 1
        return usable[(self._draws(*pair) + self._sent[pair]) % len(usable)]
