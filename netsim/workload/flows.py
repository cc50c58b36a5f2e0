"""Flows in a file: a list with sender, receiver, bytes and start of each, or a connection matrix of htsim.

Flows of a matrix start at a time, or when others have ended.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Literal, NamedTuple

from netsim.foundation.lines import MOST, read_header, read_lines, read_row, whole_number
from netsim.foundation.refusal import Refusal
from netsim.foundation.units import Duration
from netsim.workload.connections import Matrix, read_matrix
from netsim.workload.program import Program
from netsim.workload.protocol import Schedules, WorkloadSection

COLUMNS = ("src", "dst", "bytes", "start_ns")
_START = re.compile(r"[0-9]{1,16}(\.[0-9]{1,3})?")


class FlowsConfig(WorkloadSection):
    """Section ``workload`` of kind ``flows``.

    Args:
        path: A CSV file with the header src,dst,bytes,start_ns, relative to the working directory.
    """

    kind: Literal["flows"]
    path: str


class Flow(NamedTuple):
    """A line of the file."""

    line: int
    src: int
    dst: int
    bytes: int
    start_ps: int


def read_flows(path: Path) -> list[Flow]:
    """Reads and checks a list of flows."""
    lines = read_lines(path, f"a CSV file with the header {','.join(COLUMNS)}")
    header = read_header(path, lines[0], COLUMNS, f"write {','.join(COLUMNS)}")
    for name in header:
        if name not in COLUMNS:
            raise Refusal(path, "line 1", f"has an unknown column ({name!r:.40})", f"write {','.join(COLUMNS)}")
    flows = [_flow(path, number, header, line) for number, line in enumerate(lines[1:], start=2) if line.strip()]
    if not flows:
        raise Refusal(path, "file", "lists no flows", "add a line for each flow")
    return flows


def _flow(path: Path, number: int, header: Sequence[str], line: str) -> Flow:
    row = read_row(path, number, header, line, f"write one each for {','.join(header)}")
    src = whole_number(path, f"line {number}: src", row["src"])
    dst = whole_number(path, f"line {number}: dst", row["dst"])
    if src == dst:
        raise Refusal(path, f"line {number}: dst", f"is the sender itself ({dst})", "name another rank")
    size_bytes = whole_number(path, f"line {number}: bytes", row["bytes"], least=1)
    return Flow(number, src, dst, size_bytes, _start_ps(path, f"line {number}: start_ns", row["start_ns"]))


def _start_ps(path: Path, field: str, text: str) -> int:
    if not _START.fullmatch(text) or Decimal(text) * 1000 >= MOST:
        remedy = "write nanoseconds from 0 with at most three decimal places, below 2**62 ps"
        raise Refusal(path, field, f"is not a time ({text!r:.40})", remedy)
    return int(Decimal(text) * 1000)


class FlowsWorkload:
    """The workload of a `FlowsConfig`: each flow begins at its start time, independently of all others.

    The file's rank i is the job's rank i; ranks that it does not name stay idle.
    """

    def __init__(self, config: FlowsConfig) -> None:
        self.notices: list[str] = []
        self._path = Path(config.path)

    @cached_property
    def flows(self) -> list[Flow]:
        """The flows of the file."""
        return read_flows(self._path)

    def size(self, available: int) -> int:
        """All ranks."""
        for line, column, rank in _ends(self.flows):
            if rank >= available:
                problem = f"is not a rank ({rank}, of {available})"
                raise Refusal(self._path, f"line {line}: {column}", problem, f"write 0 to {available - 1}")
        return available

    def extend(self, program: Program, ranks: Sequence[int], start_ps: int, schedules: Schedules) -> None:  # noqa: ARG002
        for flow in self.flows:
            program.move(ranks[flow.src], ranks[flow.dst], flow.bytes, (), start_ps + flow.start_ps)


def _ends(flows: Sequence[Flow]) -> Iterator[tuple[int, str, int]]:
    for flow in flows:
        yield flow.line, "src", flow.src
        yield flow.line, "dst", flow.dst


class MatrixConfig(WorkloadSection):
    """Section ``workload`` of kind ``matrix``.

    Args:
        path: A connection matrix of htsim, relative to the working directory.
        acknowledged_after: Time from the arrival of a connection's last byte until its sender knows that it is done and
            fires its send_done_trigger: the way back of an acknowledgement through an idle network.
    """

    kind: Literal["matrix"]
    path: str
    acknowledged_after: Duration = 0


class _Fired(NamedTuple):
    """A connection that fires a trigger, when its sender or its receiver knows that it is done."""

    index: int
    sent: bool


class MatrixWorkload:
    """The workload of a `MatrixConfig`; node i of the matrix is the job's rank i.

    A recv_done_trigger fires when all bytes of a connection have arrived, a send_done_trigger `acknowledged_after`
    later; both start their connections at once. The k-th connection of a multishot trigger waits for the k-th that
    fires it, both in the order of the file. Messages of one connection are messages of one pair of ranks.
    """

    def __init__(self, config: MatrixConfig) -> None:
        self._path = Path(config.path)
        self._acknowledged_after_ps = config.acknowledged_after
        self.notices: list[str] = []

    @cached_property
    def matrix(self) -> Matrix:
        """The connections of the file."""
        return read_matrix(self._path)

    def size(self, available: int) -> int:
        """Number of nodes, which may be smaller than the fabric."""
        nodes = self.matrix.nodes
        if nodes > available:
            problem = f"there are {nodes}, the job has {available} ranks"
            raise Refusal(self._path, "Nodes", problem, "enlarge the topology or the job's ranks")
        self.notices = list(_notices(self.matrix, available, self._acknowledged_after_ps))
        return nodes

    def extend(self, program: Program, ranks: Sequence[int], start_ps: int, schedules: Schedules) -> None:  # noqa: ARG002
        connections = self.matrix.connections
        waits_for = _waits_for(self.matrix)
        missing = {later: len(earlier) for later, earlier in waits_for.items()}
        starts = defaultdict(list)
        for later, earlier in waits_for.items():
            for index, _ in earlier:
                starts[index].append(later)
        ready = [index for index in range(len(connections)) if not missing.get(index)]
        heapify(ready)
        moved: dict[int, int] = {}
        known: dict[int, int] = {}
        while ready:
            index = heappop(ready)
            connection = connections[index]
            after = []
            for earlier, sent in waits_for.get(index, ()):
                task = moved[earlier]
                if sent and self._acknowledged_after_ps:
                    if earlier not in known:
                        src = ranks[connections[earlier].src]
                        known[earlier] = program.wait(src, (task,), self._acknowledged_after_ps)
                    task = known[earlier]
                after.append(task)
            delay_ps = 0 if after else start_ps + (connection.start_ps or 0)
            moved[index] = program.move(ranks[connection.src], ranks[connection.dst], connection.bytes, after, delay_ps)
            for later in starts[index]:
                missing[later] -= 1
                if not missing[later]:
                    heappush(ready, later)
        for index, connection in enumerate(connections):
            if index not in moved:
                problem = "triggers wait for each other in a circle, so that it never starts"
                raise Refusal(self._path, f"line {connection.line}: trigger", problem, "give a connection a start")


def _waits_for(matrix: Matrix) -> Mapping[int, Sequence[_Fired]]:
    """For each connection that a trigger starts, by index, the connections that fire it."""
    fired: dict[int, list[_Fired]] = defaultdict(list)
    started: dict[int, list[int]] = defaultdict(list)
    for index, connection in enumerate(matrix.connections):
        if connection.sent is not None:
            fired[connection.sent].append(_Fired(index, sent=True))
        if connection.received is not None:
            fired[connection.received].append(_Fired(index, sent=False))
        if connection.trigger is not None:
            started[connection.trigger].append(index)
    waits_for: dict[int, Sequence[_Fired]] = {}
    for identity, trigger in matrix.triggers.items():
        by, targets = fired[identity], started[identity]
        needed = {"oneshot": 1, "multishot": len(targets), "barrier": trigger.count}[trigger.kind]
        if len(by) < needed or (len(by) > needed and trigger.kind != "multishot"):
            problem = f"trigger {identity} ({trigger.kind}) must be fired {needed} times, {len(by)} connections fire it"
            raise Refusal(
                matrix.path, f"line {trigger.line}", problem, "correct its kind, its count or the connections"
            )
        for position, target in enumerate(targets):
            waits_for[target] = (by[position],) if trigger.kind == "multishot" else by
    return waits_for


def _notices(matrix: Matrix, available: int, acknowledged_after_ps: int) -> Iterator[str]:
    if matrix.nodes < available:
        yield f"{matrix.path}: {matrix.nodes} nodes on a fabric of {available} ranks: the first {matrix.nodes} are used"
    if any(connection.sent is not None for connection in matrix.connections) and not acknowledged_after_ps:
        remedy = "set workload.acknowledged_after to the time that the acknowledgement takes back"
        problem = "send_done_trigger fires when all bytes have arrived, not when they are acknowledged"
        yield f"{matrix.path}: {problem}; {remedy}"
    if any(connection.priority for connection in matrix.connections):
        yield f"{matrix.path}: priorities are ignored, as by htsim's UEC and RoCE; its NDP pulls by them"
    messages = [connection for connection in matrix.connections if connection.message]
    if messages:
        yield f"{matrix.path}: messages of one connection share its sender's link, where htsim sends them one by one"
    if any(connection.start_ps for connection in messages):
        yield f"{matrix.path}: starts of messages are picoseconds like all others, where htsim's UEC takes microseconds"
    if any(trigger.kind == "multishot" for trigger in matrix.triggers.values()):
        yield f"{matrix.path}: multishot triggers pair connections in the order of the file, not in that of their ends"
