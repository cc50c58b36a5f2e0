"""The collective trace as a file: a header line, then one line for each collective that a rank issued."""

import gc
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field, ValidationError

from netsim.foundation.complaint import first_complaint
from netsim.foundation.refusal import Refusal

MOST_RANKS = 4_000_000
"""Most ranks, as many as the largest fabric has links, and so at least as many as hosts."""

Count = Annotated[int, Field(ge=0)]
LONGEST_GAP_NS = 24 * 3600 * 10**9
"""Longest computation between two collectives: a day."""
Line = TypeVar("Line", bound=BaseModel)
Splits = tuple[Count, ...] | None
_REMEDY = "record or compute the trace again"
_ABOUT = attrgetter(
    *("group", "size1", "step", "phase", "op", "bytes_in", "bytes_out", "in_splits", "out_splits", "root", "peer"),
    *("asynchronous", "wait_seq", "flops", "memory_bytes", "products"),
)
"""Checked fields of a record besides rank and place; most records repeat the values of an earlier one."""


class Header(BaseModel, extra="forbid", frozen=True, strict=True):
    """First line of a trace.

    Args:
        format: Name and version of the format; version 2 may have records of phase rollout, version 3 besides says how
            much is computed, version 4 in which products.
        source: Origin of the records: recorded, formula or replayed.
        world_size: Number of ranks.
        ranks_per_node: Ranks on a node of the traced run; in a simulation the scenario decides where ranks sit.
        groups: Name of each process group and its global ranks.
        steps: Optimiser steps in the file.
        config_sha256: Hash of the traced configuration.
        torch: Version of torch that issued the collectives.
        clock: Whose time the records have: that of the host, or of the device that computed.
    """

    format: Literal[
        "flowfabric.collectives/1", "flowfabric.collectives/2", "flowfabric.collectives/3", "flowfabric.collectives/4"
    ]
    source: Literal["recorded", "formula", "replayed"]
    world_size: Annotated[int, Field(ge=1, le=MOST_RANKS)]
    ranks_per_node: Annotated[int, Field(ge=1)]
    groups: dict[str, tuple[Count, ...]]
    steps: tuple[Count, ...]
    config_sha256: str | None
    torch: str | None
    clock: Literal["host", "device"] = "host"


class Record(BaseModel, extra="forbid", frozen=True, strict=True):
    """A line of a trace: one collective as one rank issued it.

    bytes_in is the size of its contribution, bytes_out the size of its result. rank, root and peer are global ranks;
    splits follow the order of the group's ranks; seq increases along a program. flops and memory_bytes are the work
    since the previous record, floating-point operations and bytes to and from memory, where version 3 says so; products
    are those that make the operations, where version 4 says so: kind, operations of one, and their number.
    """

    rank: Count
    seq: Count
    step: Count
    micro: Count
    phase: Literal["rollout", "forward", "backward", "optimizer"]
    op: Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send", "recv", "barrier"]
    group: str
    size1: bool
    dtype: str
    bytes_in: Count
    bytes_out: Count
    in_splits: Splits
    out_splits: Splits
    root: Count | None
    peer: Count | None
    tag: int | None
    asynchronous: bool = Field(alias="async")
    wait_seq: Count | None
    gap_ns: Annotated[int, Field(ge=0, le=LONGEST_GAP_NS)] | None
    t_issue_ns: Count | None
    t_done_ns: Count | None
    layer: Count | None
    flops: Count | None = None
    memory_bytes: Count | None = None
    products: tuple[tuple[Literal["gemm", "attention"], Count, Count], ...] | None = None


class Trace(NamedTuple):
    """A trace: for each rank its records in program order, each with its line number; sha256 of the file."""

    path: Path
    header: Header
    programs: Sequence[Sequence[tuple[int, Record]]]
    sha256: str


def _parsed(path: Path, number: int, line: str, kind: type[Line]) -> Line:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise Refusal(path, f"line {number}", "is not JSON, or cut off", _REMEDY) from None
        complaint = first_complaint(error, json.loads(line), kind)
        raise Refusal(
            path, f"line {number}: {complaint.field}", complaint.problem, complaint.remedy or _REMEDY
        ) from None


def _check_header(path: Path, header: Header) -> None:
    for name, ranks in header.groups.items():
        if not ranks or len(set(ranks)) < len(ranks) or max(ranks) >= header.world_size:
            problem = f"does not list distinct ranks below {header.world_size} ({list(ranks)!r:.60})"
            raise Refusal(path, f"line 1: groups.{name}", problem, _REMEDY)


def _contradictions(header: Header, steps: frozenset[int], record: Record) -> Iterator[tuple[str, str]]:
    """Fields of a record that contradict the header or each other, and the problem."""
    ranks = header.groups.get(record.group)
    if ranks is None:
        yield "group", f"is not in the header ({record.group})"
        return
    if record.rank not in ranks:
        yield "rank", f"is not a member of group {record.group} ({record.rank})"
    if record.size1 != (len(ranks) == 1):
        yield "size1", f"does not fit a group of {len(ranks)} ranks ({record.size1})"
    version = int(header.format.rpartition("/")[2])
    for field, least in (("flops", 3), ("memory_bytes", 3), ("products", 4)):
        if version < least and getattr(record, field) is not None:
            yield field, f"belongs to flowfabric.collectives/{least}, and the header says {header.format}"
    if record.phase == "rollout" and header.format == "flowfabric.collectives/1":
        yield "phase", f"belongs to flowfabric.collectives/2, and the header says {header.format} (rollout)"
    if record.step not in steps:
        yield "step", f"is not in the header's steps ({record.step})"
    sides = (("in_splits", record.in_splits, record.bytes_in), ("out_splits", record.out_splits, record.bytes_out))
    for field, splits, total in sides:
        if (splits is None) == (record.op == "all_to_all"):
            yield field, f"belongs to all_to_all and to nothing else (op {record.op})"
        elif splits is not None and len(splits) != len(ranks):
            yield field, f"has {len(splits)} entries for a group of {len(ranks)} ranks"
        elif splits is not None and sum(splits) != total:
            yield field, f"does not add up to {total} bytes ({sum(splits)})"
    points = (("root", record.root, ("broadcast",)), ("peer", record.peer, ("send", "recv")))
    for field, point, ops in points:
        if (point is None) == (record.op in ops):
            yield field, f"belongs to {' and '.join(ops)} and to nothing else (op {record.op}, {field} {point})"
        elif point is not None and (point not in ranks or (field == "peer" and point == record.rank)):
            yield field, f"is not another member of group {record.group} ({point})"
    if record.asynchronous != (record.wait_seq is not None):
        yield "wait_seq", f"belongs to async records and to nothing else (async {record.asynchronous})"
    elif record.wait_seq is not None and record.wait_seq <= record.seq:
        yield "wait_seq", f"does not lie after seq {record.seq} ({record.wait_seq})"


def read_trace(path: Path) -> Trace:
    """Reads and checks a trace, line by line."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Refusal(path, "file", f"cannot be read ({error.strerror})", "give a trace that exists") from None
    except UnicodeDecodeError:
        raise Refusal(path, "file", "is not text", "give a collective trace in JSON lines") from None
    if not text.endswith("\n"):
        raise Refusal(path, "file", "is empty or its last line is cut off", _REMEDY)
    lines = text.split("\n")[:-1]
    header = _parsed(path, 1, lines[0], Header)
    _check_header(path, header)
    with _without_collection():
        programs = _read_programs(path, header, lines)
    return Trace(path, header, programs, hashlib.sha256(text.encode("utf-8")).hexdigest())


def _read_programs(path: Path, header: Header, lines: Sequence[str]) -> list[list[tuple[int, Record]]]:
    """Records of each rank, from the lines of a trace."""
    programs: list[list[tuple[int, Record]]] = [[] for _ in range(header.world_size)]
    steps = frozenset(header.steps)
    members = {name: frozenset(ranks) for name, ranks in header.groups.items()}
    checked: set[tuple[object, ...]] = set()
    for number, line in enumerate(lines[1:], start=2):
        record = _parsed(path, number, line, Record)
        about = _ABOUT(record)
        if about not in checked or record.rank not in members[record.group]:
            for field, problem in _contradictions(header, steps, record):
                raise Refusal(path, f"line {number}: {field}", problem, _REMEDY)
            if record.wait_seq is None and record.peer is None:
                checked.add(about)
        program = programs[record.rank]
        if program and record.seq <= program[-1][1].seq:
            problem = f"does not grow along rank {record.rank} ({record.seq} after {program[-1][1].seq})"
            raise Refusal(path, f"line {number}: seq", problem, _REMEDY)
        program.append((number, record))
    return programs


@contextmanager
def _without_collection() -> Iterator[None]:
    """Turns off garbage collection, which would search the growing number of records in vain."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
