"""Transports of netsim that do exactly what the senders on a fabric of namespaces are told to do."""

from collections.abc import Sequence

from netsim.transport.protocol import Flow, Release, Transport


class PinnedFlows(Transport):
    """Each flow passes the spine that it is told to.

    Args:
        seed: Seed of the run, without effect.
        most_paths: Largest number of paths between two hosts.
        flows: For each line of the list of flows its src, dst and spine, None within a leaf.
    """

    def __init__(self, seed: int, most_paths: int, flows: Sequence[tuple[int, int, int | None]]) -> None:
        super().__init__(seed, most_paths)
        self._flows = flows

    def admit(self, released: Sequence[Release], now_ps: int) -> list[Flow]:  # noqa: ARG002
        """One flow a message."""
        return [Flow(m.task * self.stride, m, m.bytes, self._path(m)) for m in released]

    def _path(self, message: Release) -> int:
        src, dst, spine = self._flows[message.task]
        assert (message.src, message.dst) == (src, dst), "flows are numbered in another order than listed"
        assert (spine is None) == (len(message.paths) == 1), "between leaves there is a spine, within a leaf none"
        return spine or 0


class PlannedPackets(Transport):
    """Each packet passes the spine that its host's plan has for it.

    Args:
        seed: Seed of the run, without effect.
        most_paths: Largest number of paths between two hosts.
        packets: For each host its packets in the order in which it sends them: dst and spine, None within a leaf.
    """

    def __init__(self, seed: int, most_paths: int, packets: Sequence[Sequence[tuple[int, int | None]]]) -> None:
        super().__init__(seed, most_paths)
        self._packets = [iter(of_host) for of_host in packets]

    def choose_path(self, flow: Flow, serial: int, usable: tuple[int, ...], now_ps: int) -> int:  # noqa: ARG002
        """The next of the plan."""
        dst, spine = next(self._packets[flow.message.src])
        assert flow.message.dst == dst, "hosts send in another order than planned"
        return spine or 0
