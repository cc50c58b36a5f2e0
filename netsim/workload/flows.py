"""A list of flows in a file: sender, receiver, bytes and start of each."""

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from netsim.documents import MOST, read_header, read_lines, read_row, whole_number
from netsim.foundation.refusal import Refusal
from netsim.workload.program import Program
from netsim.workload.protocol import Schedules, WorkloadSection

COLUMNS = ("src", "dst", "bytes", "start_ns")
_START = re.compile(r"[0-9]{1,16}(\.[0-9]{1,3})?")


class FlowsConfig(WorkloadSection, frozen=True):
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
