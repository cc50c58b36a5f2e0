"""Collective traces from profiles of torch: the calls of all ranks in the terms of a trace, one after the other."""

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from netsim.collective.protocol import Message
from netsim.collective.protocol import Operation as Collective
from netsim.documents import MOST, writing
from netsim.foundation.refusal import Refusal
from netsim.workload.kineto.profile import Call, Group, Profile, read_profile
from netsim.workload.program import Program
from netsim.workload.trace import TraceConfig, TraceWorkload

_NAMES = {
    "all_reduce": ("allreduce", "all_reduce", "allreduce_coalesced"),
    "all_gather": ("all_gather", "allgather", "_allgather_base", "allgather_base", "allgather_into_tensor_coalesced"),
    "reduce_scatter": (
        "reduce_scatter",
        "_reduce_scatter_base",
        "reduce_scatter_base",
        "reduce_scatter_tensor_coalesced",
    ),
    "all_to_all": ("all_to_all", "alltoall", "all_to_allv", "alltoallv"),
    "broadcast": ("broadcast", "_broadcast_oop"),
    "send": ("send",),
    "recv": ("recv",),
    "barrier": ("barrier",),
}
"""Names that ProcessGroupNCCL gives, and those that other back ends of torch give."""
_OPERATIONS = {name: op for op, names in _NAMES.items() for name in names}
_BYTES = {"double": 8, "float": 4, "half": 2, "bfloat16": 2, "long": 8, "int": 4, "short": 2, "char": 1, "byte": 1}
_BYTES |= {"bool": 1, "complexfloat": 8, "complexdouble": 16, "int64": 8, "int32": 4, "uint64": 8, "uint32": 4}
_FLOAT8 = "float8_"
_MOST_DIGITS = 18


class Operation(NamedTuple):
    """A call in the terms of a collective trace; `root` and `peer` are global ranks.

    The rank contributes `bytes_in` and then holds `bytes_out`. Splits are bytes to and from each member, None but for
    all_to_all.
    """

    op: str
    group: str
    ranks: tuple[int, ...]
    dtype: str
    bytes_in: int
    bytes_out: int
    in_splits: tuple[int, ...] | None
    out_splits: tuple[int, ...] | None
    root: int | None
    peer: int | None


class Arguments:
    """The arguments of a call, read one by one."""

    def __init__(self, profile: Profile, call: Call) -> None:
        self._profile, self._place = profile, call.place
        self._args: Mapping[str, Any] = call.args

    def refuse(self, name: str, problem: str, remedy: str = "profile the run again") -> Refusal:
        """The error that names the event and the argument."""
        return Refusal(self._profile.path, f"traceEvents.{self._place}.args.{name}", problem, remedy)

    def operation(self) -> Operation:
        """What the call does."""
        name = str(self._args["Collective name"])
        op = _OPERATIONS.get(name.lower())
        if op is None:
            problem = f"is not a collective that can be simulated ({name!r:.40})"
            raise self.refuse("Collective name", problem, f"use {', '.join(sorted(_NAMES))}")
        group, ranks = self._group()
        dtype = str(self._args.get("dtype", ""))
        width = 0 if op == "barrier" else self._width(dtype)
        elements_in, elements_out = (self._whole(name) if width else 0 for name in ("In msg nelems", "Out msg nelems"))
        in_splits = out_splits = root = peer = None
        match op:
            case "all_to_all":
                in_splits = self._splits("In split size", elements_in, width, len(ranks))
                out_splits = self._splits("Out split size", elements_out, width, len(ranks))
            case "all_reduce":
                elements_out = elements_in
            case "broadcast":
                place = self._whole("Rank")
                if place >= len(ranks):
                    raise self.refuse("Rank", f"is not a place in a group of {len(ranks)} ({place})")
                root = ranks[place]
                elements_out = max(elements_in, elements_out)
                elements_in = elements_out if root == self._profile.rank else 0
            case "send" | "recv":
                peer = self._whole("Dst Rank" if op == "send" else "Src Rank")
                size = max(elements_in, elements_out)
                elements_in, elements_out = (size, 0) if op == "send" else (0, size)
        sizes = width * elements_in, width * elements_out
        if max(sizes) >= MOST:
            raise self.refuse("In msg nelems", f"is too large ({max(elements_in, elements_out)})")
        return Operation(op, group, ranks, dtype.lower(), *sizes, in_splits, out_splits, root, peer)

    def _width(self, dtype: str) -> int:
        width = 1 if dtype.lower().startswith(_FLOAT8) else _BYTES.get(dtype.lower())
        if width is None:
            raise self.refuse("dtype", f"is unknown ({dtype!r:.40})", f"use {', '.join(_BYTES)}")
        return width

    def _whole(self, name: str) -> int:
        value = self._args.get(name)
        if type(value) is not int or not 0 <= value < MOST:
            raise self.refuse(name, "is missing" if value is None else f"is not a whole number ({value!r:.40})")
        return value

    def _listed(self, name: str) -> tuple[tuple[int, ...], bool]:
        """Numbers in a list that is written as text, and whether the profiler has cut it off."""
        value = self._args.get(name, "[]")
        text = str(value) if isinstance(value, list) else value
        if not isinstance(text, str) or not (text.startswith("[") and text.endswith("]")):
            raise self.refuse(name, f"is not a list of numbers ({value!r:.40})")
        parts = [part.strip() for part in text[1:-1].split(",") if part.strip()]
        cut_off = parts[-1:] == ["..."]
        numbers = parts[:-1] if cut_off else parts
        if not all(part.isascii() and part.isdecimal() and len(part) <= _MOST_DIGITS for part in numbers):
            raise self.refuse(name, f"is not a list of numbers ({value!r:.40})")
        return tuple(map(int, numbers)), cut_off

    def _splits(self, name: str, elements: int, width: int, size: int) -> tuple[int, ...]:
        """Bytes for each member; the profile has rows of the tensor's first dimension, or nothing if they are even."""
        rows, cut_off = self._listed(name)
        if cut_off:
            remedy = "record a collective trace instead, or profile groups of at most 30 ranks"
            raise self.refuse(name, "is cut off by the profiler, which keeps 30 entries", remedy)
        rows = rows or (1,) * size
        whole = sum(rows)
        if len(rows) != size or (elements and (not whole or elements % whole)):
            raise self.refuse(name, f"does not cut {elements} elements for {size} ranks ({list(rows)!r:.40})")
        return tuple(width * (elements // whole if whole else 0) * part for part in rows)

    def _group(self) -> tuple[str, tuple[int, ...]]:
        """Name and ranks of the process group, from the call, from the file's header, or by start and stride."""
        name = str(self._args.get("Process Group Name", ""))
        listed, cut_off = self._listed("Process Group Ranks")
        ranks: Group = None if cut_off else listed
        if not ranks:
            ranks = self._profile.groups.get(name)
        start, stride, size = (self._args.get(key) for key in ("Global rank start", "Global rank stride", "Group size"))
        if not ranks and type(start) is int and type(stride) is int and type(size) is int:
            if not 0 < size <= self._profile.world_size:
                raise self.refuse("Group size", f"is not in 1 to {self._profile.world_size} ({size})")
            ranks = tuple(start + stride * place for place in range(size))
        if not ranks:
            raise self.refuse("Process Group Ranks", f"are unknown (group {name!r:.40})")
        distinct = len(set(ranks)) == len(ranks) and min(ranks) >= 0 and max(ranks) < self._profile.world_size
        if not distinct or self._profile.rank not in ranks:
            problem = f"does not list distinct ranks with {self._profile.rank} among them ({list(ranks)!r:.40})"
            raise self.refuse("Process Group Ranks", problem)
        return name, ranks


_SUFFIXES = (".json", ".json.gz")
_REMEDY = "profile all ranks again, over the same steps"


class Converted(NamedTuple):
    """Numbers of ranks and of collectives of all of them, and remarks for the user."""

    ranks: int
    records: int
    notices: Sequence[str]


def import_kineto(folder: Path, out: Path) -> Converted:
    """Writes the collective trace of the profiles in a folder, one file a rank; whole or not at all.

    Calls of a rank follow each other by the times of their kernels. The gap before one is the time since the one before
    it ended, or, where that still ran, since it began; one that still ran when the next began is asynchronous, and
    is waited for by the first that begins after its end. Computation that overlaps with a collective is part of the
    collective's time and of no gap.
    """
    profiles = _read(folder)
    operations = [[Arguments(profile, call).operation() for call in profile.calls] for profile in profiles]
    names = _names(profiles, operations)
    records = [
        _record(profile, call, operation, names[operation.group, operation.ranks], timing)
        for profile, of_rank in zip(profiles, operations, strict=True)
        for call, operation, timing in zip(profile.calls, of_rank, _timings(profile), strict=True)
    ]
    lines = [_header(profiles, names), *records]
    written = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    unfinished = out.with_name(f".{out.name}.unfinished")
    try:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(written, encoding="utf-8")
        _check(folder, unfinished)
        unfinished.replace(out)
    except OSError as error:
        raise Refusal("command line", "--out", f"cannot be written ({error.strerror})", "name a file") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return Converted(len(profiles), len(records), list(_notices(profiles)))


def _read(folder: Path) -> list[Profile]:
    """Profiles in the order of their ranks."""
    files = sorted(file for file in folder.iterdir() if file.name.endswith(_SUFFIXES)) if folder.is_dir() else []
    if not files:
        raise Refusal(folder, "file", "holds no profiles", "give a folder with a .json or .json.gz for each rank")
    profiles: dict[int, Profile] = {}
    for file in files:
        profile = read_profile(file)
        other = profiles.setdefault(profile.rank, profile)
        if other is not profile:
            problem = f"{profile.rank} is also that of {other.path.name}"
            raise Refusal(file, "distributedInfo.rank", problem, "keep one profile for each rank")
    world_size = next(iter(profiles.values())).world_size
    for profile in profiles.values():
        if profile.world_size != world_size:
            problem = f"is {profile.world_size}, and {world_size} in another file"
            raise Refusal(profile.path, "distributedInfo.world_size", problem, "give the profiles of one run")
    for rank in range(world_size):
        if rank not in profiles:
            raise Refusal(folder, "file", f"rank {rank} of {world_size} has no profile", "add it")
    return [profiles[rank] for rank in range(world_size)]


def _names(
    profiles: Sequence[Profile], operations: Sequence[Sequence[Operation]]
) -> dict[tuple[str, tuple[int, ...]], str]:
    """A name for each process group; where one name stands for several groups, with the group's first rank."""
    groups = dict.fromkeys((operation.group, operation.ranks) for of_rank in operations for operation in of_rank)
    total = Counter(name for name, _ in groups)
    everyone = tuple(range(len(profiles)))
    names = {}
    for number, (name, ranks) in enumerate(groups):
        plain = name or ("world" if ranks == everyone else f"group{number}")
        names[name, ranks] = plain if total[name] == 1 else f"{plain}@{ranks[0]}"
    if len(set(names.values())) < len(names):
        names = {key: f"{name}#{number}" for number, (key, name) in enumerate(names.items())}
    return names


class _Timing(NamedTuple):
    seq: int
    wait_seq: int | None
    gap_ns: int
    zero_ns: int


def _timings(profile: Profile) -> Iterator[_Timing]:
    """For each call its gap, which call waits for it, and when its step began."""
    calls = profile.calls
    starts = [call.start_ns for call in calls]
    due: dict[int, int] = {}
    ready_ns, zero_ns, step = profile.begin_ns, 0, -1
    for seq, call in enumerate(calls):
        if call.step != step:
            step, zero_ns = call.step, call.start_ns
        ready_ns = max(ready_ns, due.get(seq, 0))
        overlaps = seq + 1 < len(calls) and calls[seq + 1].start_ns < call.end_ns
        wait_seq = None
        if overlaps:
            wait_seq = bisect_left(starts, call.end_ns, lo=seq + 1)
            due[wait_seq] = max(due.get(wait_seq, 0), call.end_ns)
        yield _Timing(seq, wait_seq, max(0, call.start_ns - ready_ns), zero_ns)
        ready_ns = call.start_ns if overlaps else call.end_ns


def _header(profiles: Sequence[Profile], names: dict[tuple[str, tuple[int, ...]], str]) -> dict[str, Any]:
    on_host = Counter(profile.host for profile in profiles)
    shared = set(on_host.values()) if "" not in on_host else {1}
    return {
        "format": "flowfabric.collectives/1",
        "source": "recorded",
        "world_size": len(profiles),
        "ranks_per_node": shared.pop() if len(shared) == 1 else 1,
        "groups": {name: list(ranks) for (_, ranks), name in names.items()},
        "steps": sorted({call.step for profile in profiles for call in profile.calls}),
        "config_sha256": None,
        "torch": None,
        "clock": "device" if all(profile.has_kernels for profile in profiles) else "host",
    }


def _record(profile: Profile, call: Call, operation: Operation, group: str, timing: _Timing) -> dict[str, Any]:
    return {
        "rank": profile.rank,
        "seq": timing.seq,
        "step": call.step,
        "micro": 0,
        "phase": call.phase,
        "op": operation.op,
        "group": group,
        "size1": len(operation.ranks) == 1,
        "dtype": operation.dtype,
        "bytes_in": operation.bytes_in,
        "bytes_out": operation.bytes_out,
        "in_splits": operation.in_splits,
        "out_splits": operation.out_splits,
        "root": operation.root,
        "peer": operation.peer,
        "tag": None,
        "async": timing.wait_seq is not None,
        "wait_seq": timing.wait_seq,
        "gap_ns": timing.gap_ns,
        "t_issue_ns": call.start_ns - timing.zero_ns,
        "t_done_ns": call.end_ns - timing.zero_ns,
        "layer": None,
    }


def _check(folder: Path, written: Path) -> None:
    """Refuses a trace that nothing could replay: ranks that call different collectives."""
    try:
        trace = TraceWorkload(TraceConfig(kind="trace", path=str(written)))
        trace.extend(Program(), range(trace.size(0)), 0, _nothing)
    except Refusal as error:
        raise Refusal(folder, "profiles", f"contradict each other: {error.problem}", _REMEDY) from None


def _nothing(operation: Collective, ranks: Sequence[int]) -> list[Message]:  # noqa: ARG001
    return []


def _notices(profiles: Sequence[Profile]) -> Iterator[str]:
    bare = sum(not profile.has_kernels for profile in profiles)
    if bare:
        yield f"{bare} profiles have no kernels of NCCL: their gaps are those between calls of the host"
