"""Profiles of all ranks as one collective trace, with the computation between the collectives as gaps."""

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from netsim.collective.protocol import Message
from netsim.collective.protocol import Operation as Collective
from netsim.documents import writing
from netsim.foundation.refusal import Refusal
from netsim.workload.kineto.operations import Arguments, Operation
from netsim.workload.kineto.profile import Call, Profile, read_profile
from netsim.workload.program import Program
from netsim.workload.trace import TraceConfig, TraceWorkload

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
