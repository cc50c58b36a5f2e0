"""Flows of SimCCL as a workload: collectives cut into flows as NCCL cuts them, with what each flow waits for."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from netsim.foundation.lines import MOST, read_header, read_lines, read_row, whole_number
from netsim.foundation.refusal import Refusal
from netsim.workload.program import Program, Span, in_order
from netsim.workload.protocol import Schedules, WorkloadSection
from netsim.workload.records import MOST_RANKS

COLUMNS = ("collective", "op", "flow_id", "src", "dest", "flow_size", "conn_type", "parent_flow_ids")
"""Columns that are read. The others of the file are ignored: data_size, algorithm, protocol, channel_id, chunk_id,
chunk_count and prev_flow_ids, which lists the ranks that the sender hears from and repeats what the parents say."""

_OPERATIONS = {"1": "reduce_scatter", "2": "all_gather", "3": "all_reduce", "4": "all_to_all"}
"""Operations by the number in column op, a ComType of SimAI's ASTRA-sim."""
_REMEDY = "write the file again with SimCCL"


class SimcclConfig(WorkloadSection):
    """Section ``workload`` of kind ``simccl``.

    Args:
        path: SimCCL's ncclFlowModel_detailed_flows.csv, relative to the working directory.
    """

    kind: Literal["simccl"]
    path: str


class Flow(NamedTuple):
    """A line of the file; `id` is unique in its collective, `parents` must have arrived before it leaves."""

    line: int
    id: int
    src: int
    dst: int
    bytes: int
    parents: tuple[int, ...]


class Collective(NamedTuple):
    """The flows of a collective, each after its parents; its name has group, layer, pass, operation and bytes."""

    name: str
    op: str
    flows: Sequence[Flow]


def read_flow_models(path: Path) -> list[Collective]:
    """Reads and checks a list of flows.

    SimCCL's MockNcclGroup.cc writes it (NetMeasurements-Team/SimCCL, src/mock/v2.30, dumpDetailedFlowModels).
    """
    lines = read_lines(path, "the list of flows that SimCCL writes")
    header = read_header(path, lines[0], COLUMNS, f"write {','.join(COLUMNS)} at least")
    flows: dict[str, list[Flow]] = {}
    operations: dict[str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        if line.strip():
            row = read_row(path, number, header, line, "complete the file if it is cut off")
            flows.setdefault(row["collective"], []).append(_flow(path, number, row))
            operations.setdefault(row["collective"], _OPERATIONS.get(row["op"], "collective"))
    if not flows:
        raise Refusal(path, "file", "lists no flows", _REMEDY)
    if sum(flow.bytes for of_one in flows.values() for flow in of_one) >= MOST:
        raise Refusal(path, "flow_size", "is too large, all flows together", "keep their sum below 2**62")
    return [Collective(name, operations[name], _in_order(path, of_one)) for name, of_one in flows.items()]


def _flow(path: Path, number: int, row: Mapping[str, str]) -> Flow:
    place = f"line {number}"
    if "NVLS" in row["conn_type"]:
        problem = "reduces inside a switch, which no transport does"
        raise Refusal(path, f"{place}: conn_type", problem, "write the file again with AS_NVLS_ENABLE=0")
    named = ("flow_id", "src", "dest", "flow_size")
    identity, src, dst, size_bytes = (whole_number(path, f"{place}: {name}", row[name]) for name in named)
    if src == dst or max(src, dst) >= MOST_RANKS:
        column, rank = ("dest", dst) if dst >= src else ("src", src)
        problem = f"is the sender itself ({dst})" if src == dst else f"is not a rank ({rank})"
        raise Refusal(path, f"{place}: {column}", problem, "name another rank")
    listed = [part.strip() for part in row["parent_flow_ids"].split(";")] if row["parent_flow_ids"] else []
    parents = [whole_number(path, f"{place}: parent_flow_ids", part) for part in listed]
    return Flow(number, identity, src, dst, size_bytes, tuple(dict.fromkeys(parents)))


def _in_order(path: Path, flows: Sequence[Flow]) -> list[Flow]:
    """Flows of one collective, each after its parents."""
    places: dict[int, int] = {}
    for place, flow in enumerate(flows):
        if flow.id in places:
            problem = f"{flow.id} occurs twice in a collective (first in line {flows[places[flow.id]].line})"
            raise Refusal(path, f"line {flow.line}: flow_id", problem, _REMEDY)
        places[flow.id] = place
    for flow in flows:
        for parent in flow.parents:
            if parent not in places:
                problem = f"names flow {parent}, which is not in its collective"
                raise Refusal(path, f"line {flow.line}: parent_flow_ids", problem, _REMEDY)
    order, stuck = in_order([[places[parent] for parent in flow.parents] for flow in flows])
    if stuck is not None:
        problem = "flows wait for each other in a circle, so that it never starts"
        raise Refusal(path, f"line {flows[stuck].line}: parent_flow_ids", problem, _REMEDY)
    return [flows[place] for place in order]


class SimcclWorkload:
    """The workload of a `SimcclConfig`; its rank i is the job's rank i.

    A flow leaves when its parents have arrived. Collectives follow each other in the order of the file: a rank begins
    one when all flows from it and to it in its collective before have arrived.
    """

    def __init__(self, config: SimcclConfig) -> None:
        self._path = Path(config.path)
        self.notices: list[str] = []

    @cached_property
    def collectives(self) -> list[Collective]:
        """The collectives of the file."""
        return read_flow_models(self._path)

    def size(self, available: int) -> int:
        """Number of ranks: the highest rank that the flows name, plus 1."""
        for collective in self.collectives:
            for flow in collective.flows:
                for column, rank in (("src", flow.src), ("dest", flow.dst)):
                    if rank >= available:
                        problem = f"is not a rank ({rank}, of {available})"
                        remedy = "enlarge the topology or the job's ranks"
                        raise Refusal(self._path, f"line {flow.line}: {column}", problem, remedy)
        flows = (flow for collective in self.collectives for flow in collective.flows)
        return 1 + max(max(flow.src, flow.dst) for flow in flows)

    def extend(self, program: Program, ranks: Sequence[int], start_ps: int, schedules: Schedules) -> None:  # noqa: ARG002
        begin = program.wait(ranks[0], (), start_ps)
        over = dict.fromkeys(range(len(ranks)), begin)
        for collective in self.collectives:
            members = sorted({rank for flow in collective.flows for rank in (flow.src, flow.dst)})
            come = {rank: over[rank] for rank in members}
            moved: dict[int, int] = {}
            awaited: dict[int, list[int]] = {rank: [come[rank]] for rank in members}
            for flow in collective.flows:
                after = [come[flow.src], *(moved[parent] for parent in flow.parents)]
                moved[flow.id] = program.move(ranks[flow.src], ranks[flow.dst], flow.bytes, after)
                awaited[flow.src].append(moved[flow.id])
                awaited[flow.dst].append(moved[flow.id])
            over |= {rank: program.wait(ranks[rank], tasks) for rank, tasks in awaited.items()}
            payload = sum(flow.bytes for flow in collective.flows)
            about = (collective.op, collective.name, len(members), None, None, None, payload)
            program.spans.append(Span(*about, list(come.values()), [over[rank] for rank in members]))
