"""A transport of a user's: what `{class: "tests.netsim.own_transport:Latin"}` in a scenario finds."""

from collections.abc import Sequence

from netsim.transport.protocol import Flow, Release, Transport


class Latin(Transport):
    """Whole messages, each on the path numbered by the sum of its ranks: a Latin square of senders and receivers.

    Args:
        seed: Seed of the run.
        most_paths: Largest number of paths between two hosts.
        shift: Added to the number.
    """

    def __init__(self, seed: int, most_paths: int, shift: int = 0) -> None:
        super().__init__(seed, most_paths)
        self._shift = shift

    def admit(self, released: Sequence[Release], now_ps: int) -> list[Flow]:  # noqa: ARG002
        """One flow a message."""
        return [Flow(m.task * self.stride, m, m.bytes, self._path(m, m.usable)) for m in released]

    def choose_path(self, flow: Flow, serial: int, usable: tuple[int, ...], now_ps: int) -> int:  # noqa: ARG002
        """The same square over fewer paths."""
        return self._path(flow.message, usable)

    def _path(self, message: Release, usable: tuple[int, ...]) -> int:
        return usable[(message.src + message.dst + self._shift) % len(usable)]
