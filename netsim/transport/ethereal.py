"""Ethereal: flow-level balance of every fabric link, decided by each host alone."""

from collections import defaultdict
from collections.abc import Sequence
from math import gcd

from netsim.draws import Draws, Purpose
from netsim.transport.protocol import Flow, Release
from netsim.units import split_bytes


class Ethereal:
    """Spreads the flows of a host to one leaf over all paths, and cuts only those that do not come out even.

    Of n flows of equal size to one leaf over s paths, n - r with r = n mod s go whole, in turn over the paths; each of
    the other r is cut into s / gcd(r, s) equal pieces that continue the turn. Every path then carries n/s flows'
    worth, exactly what ideal spraying puts on it. Flows count together if their host releases them in one instant;
    unequal sizes are groups of their own. Pieces of a size that does not divide differ by a byte at most.

    Addanki, Goyal, Marinos: Challenging the Need for Packet Spraying in Large-Scale Distributed Training,
    arXiv 2407.00550, and its authors' simulator front end (AstraSimNetwork.cc).

    Args:
        seed: Seed of the run; shuffles the flows of a group and the order of its paths.
        most_paths: Largest number of paths between two hosts.
    """

    def __init__(self, seed: int, most_paths: int) -> None:
        self._flow_order = Draws(seed, Purpose.ETHEREAL_FLOWS)
        self._path_order = Draws(seed, Purpose.ETHEREAL_PATHS)
        self._most_paths = most_paths

    def admit(self, released: Sequence[Release]) -> list[Flow]:
        """Balances each group of equal flows to one leaf; traffic without a choice of path goes straight out."""
        groups: dict[tuple[int, int], list[Release]] = defaultdict(list)
        flows: list[Flow] = []
        for message in released:
            if len(message.paths) == 1:
                flows.append(Flow(message.task * self._most_paths, message, message.bytes, 0))
            else:
                groups[message.dst_leaf, message.bytes].append(message)
        for group in groups.values():
            flows += self._balance(group)
        return flows

    def choose_path(self, flow: Flow, sequence: int) -> int:  # noqa: ARG002
        """Never asked: all flows carry their path."""
        raise AssertionError(f"flow {flow.id} carries its path")

    def _balance(self, group: list[Release]) -> list[Flow]:
        paths = len(group[0].paths)
        first = group[0].task
        order = sorted(range(paths), key=lambda path: self._path_order(first, path))
        shuffled = sorted(group, key=lambda message: self._flow_order(message.task))
        rest = len(group) % paths
        whole = len(group) - rest
        pieces = paths // gcd(rest, paths)
        flows: list[Flow] = []
        for turn, message in enumerate(shuffled):
            parts = split_bytes(message.bytes, pieces) if turn >= whole else [message.bytes]
            at = turn if turn < whole else (turn - whole) * pieces
            for piece, size in enumerate(parts):
                if size:
                    path = order[(at + piece) % paths]
                    flows.append(Flow(message.task * self._most_paths + piece, message, size, path))
        return flows
