"""Packet spraying: every packet of a flow may take another path, and packets may overtake each other."""

from collections import Counter

from netsim.draws import Draws, Purpose
from netsim.transport.protocol import Flow, Transport


class SprayRandom(Transport):
    """Each packet draws its path.

    Args:
        seed: Seed of the run.
        most_paths: Largest number of paths between two hosts.
        entropies: Header values that a packet draws from, each of which leads to a path of its own draw. None: it
            draws the path itself.
    """

    def __init__(self, seed: int, most_paths: int, entropies: int | None = None) -> None:
        super().__init__(seed, most_paths)
        self.entropies = entropies
        self.needs_packets = entropies is not None
        self._draws = Draws(seed, Purpose.SPRAY_PATH)
        self._paths = Draws(seed, Purpose.ENTROPY_PATH)

    def choose_path(self, flow: Flow, serial: int, usable: tuple[int, ...], now_ps: int) -> int:  # noqa: ARG002
        """A uniform draw over the paths."""
        drawn = self._draws(self.key_of(flow), serial)
        if self.entropies:
            drawn = self._paths(self.key_of(flow), drawn % self.entropies)
        return usable[drawn % len(usable)]


class SprayRoundRobin(Transport):
    """Each host counts its packets, whatever their destination, from a random start; the count picks the path."""

    def __init__(self, seed: int, most_paths: int) -> None:
        super().__init__(seed, most_paths)
        self._draws = Draws(seed, Purpose.SPRAY_START)
        self._sent: Counter[int] = Counter()

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

    def choose_path(self, flow: Flow, serial: int, usable: tuple[int, ...], now_ps: int) -> int:  # noqa: ARG002
        """The path after the one of the host's last packet to that leaf."""
        pair = flow.message.paths[0][0], flow.message.dst_leaf
        self._sent[pair] += 1
        return usable[(self._draws(*pair) + self._sent[pair]) % len(usable)]
