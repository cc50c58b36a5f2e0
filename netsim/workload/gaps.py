"""Gaps of computation that one trace takes from another of equal structure.

Two recordings of one program differ in their gaps by the noise of the machine, which is more than most placements save
in traffic. With the gaps of one for both, what remains between their simulations is the traffic.
"""

from netsim.foundation.refusal import Refusal
from netsim.workload.records import Record, Trace


def difference(one: Trace, other: Trace) -> str | None:
    """The first difference in structure, in words; None if every rank issues the same operations in the same order.

    Structure is all but sizes, gaps and times: of each record the operation, group, phase, micro step, block and what
    is waited for where, and which step it belongs to, counted from the first of the trace.
    """
    if one.header.world_size != other.header.world_size:
        return f"{one.header.world_size} ranks against {other.header.world_size}"
    if len(one.header.steps) != len(other.header.steps):
        return f"{len(one.header.steps)} steps against {len(other.header.steps)}"
    if one.header.groups != other.header.groups:
        return "other process groups"
    for rank, (program, like) in enumerate(zip(one.programs, other.programs, strict=True)):
        if len(program) != len(like):
            return f"{len(program)} records of rank {rank} against {len(like)}"
        first, other_first = (records[0][1].seq if records else 0 for records in (program, like))
        for (number, record), (_, twin) in zip(program, like, strict=True):
            shapes = _shape(one, record, first), _shape(other, twin, other_first)
            if shapes[0] != shapes[1]:
                return f"line {number}, {record.op} of rank {rank}, against {twin.op}"
    return None


def equal_gaps(one: Trace, other: Trace) -> bool:
    """Whether two traces of equal structure have the same gaps."""
    return all(
        (record.gap_ns or 0) == (twin.gap_ns or 0)
        for program, like in zip(one.programs, other.programs, strict=True)
        for (_, record), (_, twin) in zip(program, like, strict=True)
    )


def with_gaps_of(trace: Trace, other: Trace) -> Trace:
    """The trace with the gaps of another."""
    differs = difference(trace, other)
    if differs is not None:
        problem = f"cannot give its gaps to {trace.path}, which has another structure ({differs})"
        raise Refusal(other.path, "gaps", problem, "leave it out, or name a recording of the same program")
    programs = [
        [
            (number, record.model_copy(update={"gap_ns": twin.gap_ns}))
            for (number, record), (_, twin) in zip(program, like, strict=True)
        ]
        for program, like in zip(trace.programs, other.programs, strict=True)
    ]
    return trace._replace(programs=programs)


def _shape(trace: Trace, record: Record, first: int) -> tuple[object, ...]:
    wait = None if record.wait_seq is None else record.wait_seq - first
    step = trace.header.steps.index(record.step)
    about = record.phase, record.op, record.group, record.root, record.peer, record.tag, record.layer
    return record.seq - first, step, record.micro, wait, *about
