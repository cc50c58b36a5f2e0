"""Matching: of the records of several ranks to collectives, and of two traces of equal structure, for their gaps.

Two recordings of one program differ in their gaps by the noise of the machine, which is more than most placements save
in traffic. With the gaps of one for both, what remains between their simulations is the traffic.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from netsim.collective.protocol import Operation
from netsim.foundation.refusal import Refusal
from netsim.foundation.units import split_bytes
from netsim.workload.records import Record, Trace


def matching_key(record: Record) -> tuple[str | int, ...]:
    """Key for matching: the k-th record with a key at one rank and the k-th at another are the same collective."""
    if record.peer is None:
        return ("group", record.group)
    src, dst = (record.rank, record.peer) if record.op == "send" else (record.peer, record.rank)
    return ("pair", record.group, src, dst, record.tag or 0)


def check_and_combine(path: Path, lines: Sequence[tuple[int, Record]]) -> Operation:
    """The operation that the records (line, record) of one collective describe; of a pair the sender comes first."""
    records = [record for _, record in lines]
    for position, field, problem in _disagreements(records):
        number, record = lines[position]
        where = f"rank {record.rank}, {record.op} on group {record.group}"
        raise Refusal(path, f"line {number}: {field}", f"{problem} ({where})", "record or compute the trace again")
    size, first = len(records), records[0]
    match first.op:
        case "all_to_all":
            return Operation(first.op, size, matrix=tuple(record.in_splits or () for record in records))
        case "all_reduce":
            return Operation(first.op, size, blocks=tuple(split_bytes(first.bytes_in, size)))
        case "all_gather":
            return Operation(first.op, size, blocks=tuple(record.bytes_in for record in records))
        case "reduce_scatter":
            return Operation(first.op, size, blocks=tuple(record.bytes_out for record in records))
        case "broadcast":
            root = next(position for position, record in enumerate(records) if record.rank == record.root)
            return Operation(first.op, size, blocks=(first.bytes_out,), root=root)
        case "send":
            return Operation(first.op, size, blocks=(first.bytes_in,))
        case _:
            return Operation("barrier", size)


def _disagreements(records: Sequence[Record]) -> Iterator[tuple[int, str, str]]:
    """Positions of records that contradict the first one or the sum of all, with field and problem."""
    first = records[0]
    if first.peer is not None:
        sender, receiver = records
        if (sender.op, receiver.op) != ("send", "recv"):
            yield 1, "op", f"{receiver.op} meets {sender.op} instead of a send meeting its recv"
        if receiver.bytes_out != sender.bytes_in:
            yield 1, "bytes_out", f"{receiver.bytes_out} received of {sender.bytes_in} sent"
        return
    for position, record in enumerate(records):
        if record.op != first.op:
            yield position, "op", f"{record.op} meets {first.op} of rank {first.rank}"
        if record.root != first.root:
            yield position, "root", f"{record.root} meets {first.root} of rank {first.rank}"
    for field in _SAME[first.op]:
        for position, record in enumerate(records):
            value, expected = getattr(record, field), getattr(first, field)
            if value != expected:
                yield position, field, f"{value} meets {expected} of rank {first.rank}"
    if first.op == "all_gather" and first.bytes_out != sum(record.bytes_in for record in records):
        yield 0, "bytes_out", f"{first.bytes_out} is not the sum of what the members contribute"
    if first.op == "reduce_scatter" and first.bytes_in != sum(record.bytes_out for record in records):
        yield 0, "bytes_in", f"{first.bytes_in} is not the sum of what the members hold afterwards"
    if first.op == "all_to_all":
        sent = [record.in_splits or () for record in records]
        for position, record in enumerate(records):
            for peer, received in enumerate(record.out_splits or ()):
                if received != sent[peer][position]:
                    problem = f"{received} bytes from rank {records[peer].rank}, which sends {sent[peer][position]}"
                    yield position, f"out_splits.{peer}", problem


_SAME = {
    "all_reduce": ("bytes_in", "bytes_out"),
    "all_gather": ("bytes_out",),
    "reduce_scatter": ("bytes_in",),
    "all_to_all": (),
    "broadcast": ("bytes_out",),
    "barrier": (),
}


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
