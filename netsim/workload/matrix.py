"""A connection matrix of htsim as a workload: flows that start at a time, or when others have ended."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Literal

from netsim.errors import InputError
from netsim.section import Section
from netsim.workload.connections import Matrix, read_matrix
from netsim.workload.protocol import Program, Schedules


class MatrixConfig(Section, frozen=True):
    """Section ``workload`` of kind ``matrix``.

    Args:
        path: A connection matrix of htsim, relative to the working directory.
    """

    kind: Literal["matrix"]
    path: str


class MatrixWorkload:
    """The workload of a `MatrixConfig`; node i of the matrix is the job's rank i.

    A trigger fires when all bytes of a connection that names it have arrived, and starts its connections at once. The
    k-th connection of a multishot trigger waits for the k-th that fires it, both in the order of the file.
    """

    def __init__(self, config: MatrixConfig) -> None:
        self._path = Path(config.path)
        self.notices: list[str] = []

    @cached_property
    def matrix(self) -> Matrix:
        """The connections of the file.

        Raises:
            InputError: The file is wrong.
        """
        return read_matrix(self._path)

    def size(self, available: int) -> int:
        """Number of nodes, which may be smaller than the fabric.

        Raises:
            InputError: There are fewer ranks than nodes of the matrix.
        """
        nodes = self.matrix.nodes
        if nodes > available:
            problem = f"there are {nodes}, the job has {available} ranks"
            raise InputError(self._path, "Nodes", problem, "enlarge the topology or the job's ranks")
        self.notices = list(_notices(self.matrix, available))
        return nodes

    def extend(self, program: Program, ranks: Sequence[int], start_ps: int, schedules: Schedules) -> None:  # noqa: ARG002
        """See `netsim.workload.protocol.Workload`."""
        connections = self.matrix.connections
        waits_for = _waits_for(self.matrix)
        missing = {later: len(earlier) for later, earlier in waits_for.items()}
        starts = defaultdict(list)
        for later, earlier in waits_for.items():
            for index in earlier:
                starts[index].append(later)
        ready = [index for index in range(len(connections)) if not missing.get(index)]
        heapify(ready)
        moved: dict[int, int] = {}
        while ready:
            index = heappop(ready)
            connection = connections[index]
            after = [moved[earlier] for earlier in waits_for.get(index, ())]
            delay_ps = 0 if after else start_ps + (connection.start_ps or 0)
            moved[index] = program.move(ranks[connection.src], ranks[connection.dst], connection.bytes, after, delay_ps)
            for later in starts[index]:
                missing[later] -= 1
                if not missing[later]:
                    heappush(ready, later)
        for index, connection in enumerate(connections):
            if index not in moved:
                problem = "triggers wait for each other in a circle, so that it never starts"
                raise InputError(self._path, f"line {connection.line}: trigger", problem, "give a connection a start")


def _waits_for(matrix: Matrix) -> Mapping[int, Sequence[int]]:
    """For each connection that a trigger starts, the connections that must have ended, by index."""
    fired: dict[int, list[int]] = defaultdict(list)
    started: dict[int, list[int]] = defaultdict(list)
    for index, connection in enumerate(matrix.connections):
        for trigger in (connection.sent, connection.received):
            if trigger is not None:
                fired[trigger].append(index)
        if connection.trigger is not None:
            started[connection.trigger].append(index)
    waits_for: dict[int, Sequence[int]] = {}
    for identity, trigger in matrix.triggers.items():
        by, targets = fired[identity], started[identity]
        needed = {"oneshot": 1, "multishot": len(targets), "barrier": trigger.count}[trigger.kind]
        if len(by) < needed or (len(by) > needed and trigger.kind != "multishot"):
            problem = f"trigger {identity} ({trigger.kind}) must be fired {needed} times, {len(by)} connections fire it"
            raise InputError(
                matrix.path, f"line {trigger.line}", problem, "correct its kind, its count or the connections"
            )
        for position, target in enumerate(targets):
            waits_for[target] = (by[position],) if trigger.kind == "multishot" else by
    return waits_for


def _notices(matrix: Matrix, available: int) -> Iterator[str]:
    if matrix.nodes < available:
        yield f"{matrix.path}: {matrix.nodes} nodes on a fabric of {available} ranks: the first {matrix.nodes} are used"
    if any(connection.sent is not None for connection in matrix.connections):
        yield f"{matrix.path}: send_done_trigger fires when all bytes have arrived, not when they are acknowledged"
    if any(connection.priority for connection in matrix.connections):
        yield f"{matrix.path}: priorities are ignored"
    if any(trigger.kind == "multishot" for trigger in matrix.triggers.values()):
        yield f"{matrix.path}: multishot triggers pair connections in the order of the file, not in that of their ends"
