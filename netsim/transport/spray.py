"""Packet spraying: every packet of a flow may take another path, and packets may overtake each other."""

from collections import Counter
from collections.abc import Sequence

from netsim.draws import Draws, Purpose
from netsim.transport.protocol import Flow, Release


def _unpinned(released: Sequence[Release], most_paths: int) -> list[Flow]:
    return [Flow(m.task * most_paths, m, m.bytes, None) for m in released]


class SprayRandom:
    """Each packet draws its path.

    Args:
        seed: Seed of the run.
        most_paths: Largest number of paths between two hosts.
    """

    def __init__(self, seed: int, most_paths: int) -> None:
        self._draws = Draws(seed, Purpose.SPRAY_PATH)
        self._most_paths = most_paths

    def admit(self, released: Sequence[Release]) -> list[Flow]:
        """One flow a message."""
        return _unpinned(released, self._most_paths)

    def choose_path(self, flow: Flow, sequence: int) -> int:
        """A uniform draw over the paths."""
        return self._draws(flow.id, sequence) % len(flow.message.paths)


class SprayRoundRobin:
    """Each host counts its packets, whatever their destination, from a random start; the count picks the path.

    Args:
        seed: Seed of the run.
        most_paths: Largest number of paths between two hosts.
    """

    def __init__(self, seed: int, most_paths: int) -> None:
        self._draws = Draws(seed, Purpose.SPRAY_START)
        self._most_paths = most_paths
        self._sent: Counter[int] = Counter()

    def admit(self, released: Sequence[Release]) -> list[Flow]:
        """One flow a message."""
        return _unpinned(released, self._most_paths)

    def choose_path(self, flow: Flow, sequence: int) -> int:  # noqa: ARG002
        """The path after the one that the host's last packet got."""
        paths = flow.message.paths
        nic = paths[0][0]
        self._sent[nic] += 1
        return (self._draws(nic) + self._sent[nic]) % len(paths)
