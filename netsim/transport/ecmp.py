"""Equal-cost multipath: a hash of the connection picks one path for good."""

from collections.abc import Sequence

from netsim.draws import Draws, Purpose
from netsim.transport.protocol import Flow, Release


class Ecmp:
    """One path for each pair of ranks: their queue pair, hence its 5-tuple and hash, lives as long as the run.

    Args:
        seed: Seed of the run, the hash function's salt.
        most_paths: Largest number of paths between two hosts.
    """

    def __init__(self, seed: int, most_paths: int) -> None:
        self._draws = Draws(seed, Purpose.ECMP_PATH)
        self._most_paths = most_paths

    def admit(self, released: Sequence[Release]) -> list[Flow]:
        """One flow a message."""
        return [Flow(m.task * self._most_paths, m, m.bytes, self._path(m)) for m in released]

    def choose_path(self, flow: Flow, sequence: int) -> int:  # noqa: ARG002
        """The hash again, for the sake of the protocol: all flows carry it already."""
        return self._path(flow.message)

    def _path(self, message: Release) -> int:
        return self._draws(message.src, message.dst) % len(message.paths)
