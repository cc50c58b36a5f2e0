"""The collective trace: one header line, then one line for each collective that a rank issued.

A trace holds logical operations, not a backend's algorithms for them. `bytes_in` is what the rank
contributes and `bytes_out` what it holds afterwards: a broadcast's root has both, the other members only
`bytes_out`; a send has only `bytes_in`, a recv only `bytes_out`. `rank`, `root` and `peer` are global ranks;
`in_splits` and `out_splits` follow the order of the group's ranks. `seq` counts a rank's records through the
whole file, so a `wait_seq` one past the last record of a step means "waited for by the end of the step".

Version 2 of the format adds the phase rollout: calls of a network that collect the examples a step learns from. A trace
without that phase is written as version 1, so that readers of version 1 go on reading all that they understand. Version
3 adds how much is computed before a record, from which a simulator computes how long a device takes.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NoReturn

from netsim.foundation.documents import parse_json
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal

FORMATS = tuple(f"flowfabric.collectives/{version}" for version in (1, 2, 3, 4))
SOURCES = ("recorded", "formula", "replayed")
CLOCKS = ("host", "device")
ROLLOUT = "rollout"
WORK = {"flops": 3, "memory_bytes": 3, "products": 4}
"""Fields that say what is computed, and the first version that has them."""
PRODUCTS = ("gemm", "attention")
PHASES_OF_VERSION = {1: ("forward", "backward", "optimizer"), 2: (ROLLOUT, "forward", "backward", "optimizer")}
PHASES = PHASES_OF_VERSION[4] = PHASES_OF_VERSION[3] = PHASES_OF_VERSION[2]
OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send", "recv", "barrier")


@dataclass(frozen=True, slots=True)
class TraceHeader:
    """The header of a trace, which holds for every record.

    Args:
        source: origin of the records: recorded, formula or replayed.
        world_size: number of ranks.
        ranks_per_node: ranks on one node.
        groups: group name to its global ranks, ascending.
        steps: optimiser steps that the trace holds, ascending.
        config_sha256: hash of the resolved configuration; None where there was none.
        torch: version of torch that issued the collectives; None for a formula.
        clock: clock of the times: of the host, or of the device that computed. A header without it means host.
        version: of the format; 4 where records list the matrix products, 3 where they have only totals of computation,
            else 2 where a record is of phase rollout, else 1.
    """

    source: str
    world_size: int
    ranks_per_node: int
    groups: Mapping[str, tuple[int, ...]]
    steps: tuple[int, ...]
    config_sha256: str | None
    torch: str | None
    clock: str = "host"
    version: int = 1

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that its records may have."""
        return PHASES_OF_VERSION[self.version]

    def to_json(self) -> str:
        """The header line, without its line end."""
        values = {"format": FORMATS[self.version - 1]} | {name: getattr(self, name) for name in _IN_HEADER}
        if self.clock == "host":
            del values["clock"]  # as it was before devices had one
        return json.dumps(values, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class CollectiveRecord:
    """One collective as one rank issued it.

    Args:
        rank, seq, step, micro: rank that issued it, its place in the rank's order, optimiser step and micro step.
        phase: rollout, forward, backward or optimizer.
        op: one of OPERATIONS.
        group: name in the header's group table.
        size1: the group has one rank, so nothing crosses a network.
        dtype: element type, such as float32.
        bytes_in, bytes_out: bytes that the rank contributes, bytes that it holds afterwards.
        in_splits, out_splits: bytes to and from each member, own block included; all_to_all only.
        root, peer, tag: global rank of a broadcast's root, global rank and tag of a send's or recv's other side.
        asynchronous: written as `async`: the rank continued before the collective had ended.
        wait_seq: first record issued after the wait; None if synchronous.
        gap_ns: compute since the previous record ended, ns; None if unknown.
        t_issue_ns, t_done_ns: since the first record of the step, ns; None if unknown.
        layer: index of the model block; None outside the blocks.
        flops: floating-point operations since the previous record, of version 3; None: not known, and not written.
        memory_bytes: bytes to and from memory since then, likewise.
        products: the matrix products among the operations, of version 4: of each size its kind (gemm or attention), the
            operations of one, and their number.
    """

    rank: int
    seq: int
    step: int
    micro: int
    phase: str
    op: str
    group: str
    size1: bool
    dtype: str
    bytes_in: int
    bytes_out: int
    in_splits: tuple[int, ...] | None = None
    out_splits: tuple[int, ...] | None = None
    root: int | None = None
    peer: int | None = None
    tag: int | None = None
    asynchronous: bool = False
    wait_seq: int | None = None
    gap_ns: int | None = None
    t_issue_ns: int | None = None
    t_done_ns: int | None = None
    layer: int | None = None
    flops: int | None = None
    memory_bytes: int | None = None
    products: tuple[tuple[str, int, int], ...] | None = None

    def to_json(self) -> str:
        """The record's line, without its line end."""
        values = {key: getattr(self, name) for key, name in _KEYS.items()}
        for key in WORK:
            if values[key] is None:
                del values[key]
        return json.dumps(values, separators=(",", ":"))


_IN_HEADER = [field.name for field in fields(TraceHeader) if field.name != "version"]
_KEYS = {"async" if field.name == "asynchronous" else field.name: field.name for field in fields(CollectiveRecord)}


def rank_path(folder: Path, rank: int) -> Path:
    """Path of a rank's own records until they are merged."""
    return folder / f"collectives.rank_{rank:05d}.jsonl"


def write(path: Path, header: TraceHeader, records: Iterable[CollectiveRecord]) -> None:
    """Write a trace to a temporary name beside `path`, then rename it; records may be a generator."""
    write_lines(path, header, (f"{record.to_json()}\n" for record in records))


def write_lines(path: Path, header: TraceHeader, lines: Iterable[str]) -> None:
    """Write a trace as :func:`write` does, from records that are text lines already, line ends included."""
    with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as file:
        file.write(header.to_json() + "\n")
        file.writelines(lines)


def read(path: Path) -> tuple[TraceHeader, list[CollectiveRecord]]:
    """Read and check a trace.

    Raises:
        Refusal: the file is missing, truncated or breaks the format; the message names line, field and remedy.
    """
    lines = _Lines(path)
    header = lines.header()
    return header, list(lines.records(header))


def read_header(path: Path) -> TraceHeader:
    """Read and check the first line of a trace, and nothing behind it.

    Raises:
        Refusal: as :func:`read`.
    """
    return _Lines(path, 1).header()


class _Lines:
    """The first lines of one trace file, or all of them, checked against the format."""

    def __init__(self, path: Path, most: int | None = None) -> None:
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read() if most is None else "".join(islice(file, most))
        except OSError as error:
            raise Refusal(path, "file", f"cannot be read ({error.strerror})", "give a trace that exists") from error
        except UnicodeDecodeError as error:
            raise Refusal(path, "file", "is not UTF-8 text", "give a collective trace in JSON lines") from error
        if not text.endswith("\n"):
            raise Refusal(path, "file", "is empty or its last line has no end (truncated)", "write the trace again")
        self.path, self.lines = path, text.split("\n")[:-1]

    def fail(
        self, number: int, field: str, problem: str, remedy: str = "record or compute the trace again"
    ) -> NoReturn:
        raise Refusal(self.path, f"line {number}, {field}", problem, remedy)

    def values(self, number: int, checks: Mapping[str, "_Check"], optional: Collection[str] = ()) -> dict:
        """The JSON object on a line, its keys and types checked."""
        try:
            values = parse_json(self.lines[number - 1], parse_constant=float)
        except ValueError:
            self.fail(number, "record", "is not JSON (truncated?)")
        if not isinstance(values, dict):
            self.fail(number, "record", f"must be an object ({values!r:.40})")
        for key in values:
            if key not in checks:
                self.fail(number, key, "is not a field of a collective trace", "remove it")
        for key, check in checks.items():
            if key not in values:
                if key in optional:
                    continue
                self.fail(number, key, "is missing")
            if not check.holds(values[key]):
                self.fail(number, key, f"must be {check.wording} ({values[key]!r:.40})")
        return values

    def header(self) -> TraceHeader:
        """The first line."""
        values = self.values(1, _HEADER, optional=("clock",))
        world_size = values["world_size"]
        for name, ranks in values["groups"].items():
            if not _ascending(ranks) or not ranks or ranks[-1] >= world_size:
                self.fail(1, f"groups.{name}", f"must list ascending ranks below {world_size} ({ranks!r:.40})")
        return TraceHeader(
            source=values["source"],
            world_size=world_size,
            ranks_per_node=values["ranks_per_node"],
            groups={name: tuple(ranks) for name, ranks in values["groups"].items()},
            steps=tuple(values["steps"]),
            config_sha256=values["config_sha256"],
            torch=values["torch"],
            clock=values.get("clock", "host"),
            version=FORMATS.index(values["format"]) + 1,
        )

    def records(self, header: TraceHeader) -> Iterator[CollectiveRecord]:
        """All further lines."""
        last: dict[int, int] = {}
        steps = set(header.steps)
        for number in range(2, len(self.lines) + 1):
            values = self.values(number, _RECORD, optional=WORK)
            frozen: dict[str, Any] = {name: _frozen(values[key]) for key, name in _KEYS.items() if key in values}
            record = CollectiveRecord(**frozen)
            for field, problem in _contradictions(header, steps, record, last.get(record.rank, -1)):
                self.fail(number, field, problem)
            last[record.rank] = record.seq
            yield record


def _frozen(value: object) -> object:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _contradictions(
    header: TraceHeader, steps: set[int], record: CollectiveRecord, last: int
) -> Iterator[tuple[str, str]]:
    """Fields that do not fit the header, the rank's last record or each other, and why."""
    ranks = header.groups.get(record.group)
    if ranks is None:
        yield "group", f"is not in the header's groups ({record.group!r})"
        return
    if record.rank not in ranks:
        yield "rank", f"is not a member of group {record.group} ({record.rank})"
    if record.size1 != (len(ranks) == 1):
        yield "size1", f"does not fit a group of {len(ranks)} ranks ({record.size1})"
    if record.step not in steps:
        yield "step", f"is not in the header's steps ({record.step})"
    for field, version in WORK.items():
        if header.version < version and getattr(record, field) is not None:
            yield field, f"belongs to {FORMATS[version - 1]}, and the header says {FORMATS[header.version - 1]}"
    if record.phase not in header.phases:
        yield "phase", f"belongs to {FORMATS[1]}, and the header says {FORMATS[header.version - 1]} ({record.phase})"
    if record.seq <= last:
        yield "seq", f"must grow from record to record of a rank ({record.seq} after {last})"
    for field, splits, total in (
        ("in_splits", record.in_splits, record.bytes_in),
        ("out_splits", record.out_splits, record.bytes_out),
    ):
        if (splits is not None) != (record.op == "all_to_all"):
            yield field, f"belongs to all_to_all and to it alone (op {record.op})"
        elif splits is not None and len(splits) != len(ranks):
            yield field, f"must have one entry a member, {len(ranks)} ({len(splits)})"
        elif splits is not None and sum(splits) != total:
            yield field, f"must sum to the record's {total} bytes ({sum(splits)})"
    if record.op == "all_reduce" and record.bytes_in != record.bytes_out:
        yield "bytes_out", f"must equal bytes_in {record.bytes_in} in an all_reduce ({record.bytes_out})"
    for field, value, ops in (
        ("root", record.root, ("broadcast",)),
        ("peer", record.peer, ("send", "recv")),
        ("tag", record.tag, ("send", "recv")),
    ):
        if (value is not None) != (record.op in ops):
            yield field, f"belongs to {' and '.join(ops)} and to no other op (op {record.op}, {field} {value})"
        elif value is not None and field != "tag" and value not in ranks:
            yield field, f"is not a member of group {record.group} ({value})"
    if (record.wait_seq is not None) != record.asynchronous:
        yield "wait_seq", f"belongs to async records and to them alone (async {record.asynchronous})"
    elif record.wait_seq is not None and record.wait_seq <= record.seq:
        yield "wait_seq", f"must be above seq {record.seq} ({record.wait_seq})"


@dataclass(frozen=True, slots=True)
class _Check:
    """A condition on one value, and its wording in messages."""

    holds: Callable[[object], bool]
    wording: str

    def or_null(self) -> "_Check":
        return _Check(lambda value: value is None or self.holds(value), f"{self.wording} or null")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _are_products(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, list) and len(one) == 3 and one[0] in PRODUCTS and all(map(_is_count, one[1:])) for one in value
    )


def _ascending(value: object) -> bool:
    return (
        isinstance(value, list)
        and all(map(_is_count, value))
        and all(first < second for first, second in pairwise(value))
    )


def _one_of(values: tuple[str, ...]) -> _Check:
    return _Check(lambda value: value in values, "one of " + ", ".join(values))


_COUNT = _Check(_is_count, "an integer of 0 or more")
_SIZE = _Check(lambda value: _is_count(value) and value != 0, "an integer of 1 or more")
_TEXT = _Check(lambda value: isinstance(value, str) and value != "", "a non-empty string")
_FLAG = _Check(lambda value: isinstance(value, bool), "true or false")
_COUNTS = _Check(lambda value: isinstance(value, list) and all(map(_is_count, value)), "a list of byte counts")

_HEADER = {
    "format": _one_of(FORMATS),
    "source": _one_of(SOURCES),
    "world_size": _SIZE,
    "ranks_per_node": _SIZE,
    "groups": _Check(lambda value: isinstance(value, dict), "an object of name: [ranks]"),
    "steps": _Check(_ascending, "ascending step numbers"),
    "config_sha256": _TEXT.or_null(),
    "torch": _TEXT.or_null(),
    "clock": _one_of(CLOCKS),
}
_RECORD = (
    dict.fromkeys(("rank", "seq", "step", "micro", "bytes_in", "bytes_out"), _COUNT)
    | {"phase": _one_of(PHASES), "op": _one_of(OPERATIONS), "group": _TEXT, "dtype": _TEXT}
    | dict.fromkeys(("size1", "async"), _FLAG)
    | dict.fromkeys(("in_splits", "out_splits"), _COUNTS.or_null())
    | dict.fromkeys(
        ("root", "peer", "tag", "wait_seq", "gap_ns", "t_issue_ns", "t_done_ns", "layer", *WORK), _COUNT.or_null()
    )
    | {"products": _Check(_are_products, "a list of [gemm or attention, operations, count]").or_null()}
)
