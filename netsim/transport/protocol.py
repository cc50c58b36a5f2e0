"""What the engines know about a transport: how it cuts messages into flows, and which path each packet takes."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from netsim.topology.protocol import Path


class Release(NamedTuple):
    """A message that its source host may send now.

    Args:
        task: Index of the task.
        src: Source rank.
        dst: Destination rank.
        dst_leaf: First switch of the destination host.
        bytes: Payload, at least 1.
        paths: All paths; one if there is no choice.
    """

    task: int
    src: int
    dst: int
    dst_leaf: int
    bytes: int
    paths: tuple[Path, ...]


class Flow(NamedTuple):
    """A queue pair's share of a message; its packets leave in order.

    Args:
        id: task * most_paths + piece: unique in a run, and the same in every engine.
        message: What it belongs to.
        bytes: Payload, at least 1.
        path: Index into the message's paths if all packets share it, otherwise None.
    """

    id: int
    message: Release
    bytes: int
    path: int | None


class Transport(Protocol):
    """Path choice of one run. Draws depend on (seed, purpose, flow, sequence) alone."""

    def admit(self, released: Sequence[Release]) -> list[Flow]:
        """Turns the messages that one host releases in one instant into flows, which carry all their bytes.

        Args:
            released: Messages of one source host, by task index.
        """
        ...

    def choose_path(self, flow: Flow, sequence: int) -> int:
        """Path of a packet, as an index into the message's paths.

        Called once for each packet of a flow without a path, in the order in which its host sends them.

        Args:
            flow: Its flow.
            sequence: Its number in the flow, from 0.
        """
        ...
