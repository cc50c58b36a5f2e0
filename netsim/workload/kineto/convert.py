"""Collective traces from profiles of torch: the calls of all ranks in the terms of a trace, one after the other."""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from netsim.collective.protocol import Message
from netsim.collective.protocol import Operation as Collective
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal
from netsim.workload.kineto.experts import Experts
from netsim.workload.kineto.operation import MOST_LISTED, Arguments
from netsim.workload.kineto.peers import Groups, Operation, agreed, copied
from netsim.workload.kineto.profile import Call, Profile, read_profile
from netsim.workload.kineto.timeline import Step, Waits, program, waits
from netsim.workload.program import Program
from netsim.workload.trace import TraceConfig, TraceWorkload

PROFILES = (".json", ".json.gz")
"""Suffixes of profiles' names."""
_MOST_ENTRIES = 50_000_000
_REMEDY = "profile all ranks again, over the same steps"
_SIZED = ("record", "annotation")
_ALONE = "alone"
"""Group of one rank, whose barriers carry the computation beside collectives."""


class Recorded(NamedTuple):
    """A profile, and its calls that the trace contains: in order, as steps and operations, with their waits."""

    profile: Profile
    calls: Sequence[Call]
    steps: Sequence[Step]
    operations: Sequence[Operation]
    waits: Waits


Names = dict[tuple[str, tuple[int, ...]], str]
"""Names of process groups in the trace, by name and ranks in the profiles."""


class Converted(NamedTuple):
    """Numbers of ranks and of records of all ranks, the given profiles, names of groups, and remarks for the user."""

    ranks: int
    records: int
    recorded: Sequence[Recorded]
    names: Names
    notices: Sequence[str]


def import_kineto(
    path: Path,
    out: Path,
    *,
    ranks: int | None = None,
    groups: Sequence[str] = (),
    experts: Experts | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Converted:
    """Writes the collective trace of profiles, whole or not at all.

    Calls of a rank follow each other by the times of their kernels. The gap before one is the time since the one before
    it ended, or, where that still ran, since it began; one that still ran when the next began, or beside which its
    device computed, is asynchronous (`timeline`). A rank without a profile does what the last one at or below it does
    that has one, in its own groups and with its own peers, and receives in an all-to-all what the others send. It comes
    to a collective as much later as that one waits there with nothing to compute: what a rank waits for is another.

    Args:
        path: A profile, or a folder with one for some or all ranks.
        out: The trace.
        ranks: Number of ranks, in place of what the profiles say.
        groups: Process groups that the profiles do not list, such as expert=64x1: name, size and stride.
        experts: What DeepEP's kernels move; without it they count with their recorded times.
        progress: Called with what is being done.
    """
    profiles = _read(path, ranks, progress)
    world_size = profiles[0].world_size
    known = Groups(world_size, groups)
    given = [_recorded(profile, known, experts) for profile in profiles]
    progress(f"writing {out.name}")
    sources = [given[max(0, bisect_right([one.profile.rank for one in given], rank) - 1)] for rank in range(world_size)]
    _refuse_endless(path, sources)
    operations = agreed([_operations(source, rank, known, experts) for rank, source in enumerate(sources)])
    names = _names(operations, sources)
    records = [
        line
        for rank, (source, of_rank) in enumerate(zip(sources, operations, strict=True))
        for line in _records(rank, source, of_rank, names)
    ]
    lines = [_header(profiles, names), *records]
    with replacing(out) as unfinished:
        unfinished.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines), "utf-8")
        _check(path, unfinished)
    return Converted(world_size, sum(map(len, operations)), given, names, list(_notices(given, known, world_size)))


def _read(path: Path, ranks: int | None, progress: Callable[[str], None]) -> list[Profile]:
    """Profiles in the order of their ranks."""
    files = sorted(file for file in path.iterdir() if file.name.endswith(PROFILES)) if path.is_dir() else [path]
    if not files or not files[0].name.endswith(PROFILES) or not files[0].exists():
        remedy = "give a profile, .json or .json.gz, or a folder with one for each rank"
        raise Refusal(path, "file", "holds no profiles", remedy)
    profiles: dict[int, Profile] = {}
    for file in files:
        profile = read_profile(file, progress, ranks)
        other = profiles.setdefault(profile.rank, profile)
        if other is not profile:
            problem = f"{profile.rank} is also that of {other.path.name}"
            raise Refusal(file, "distributedInfo.rank", problem, "keep one profile for each rank")
    first = next(iter(profiles.values()))
    for profile in profiles.values():
        if profile.world_size != first.world_size:
            problem = f"is {profile.world_size}, and {first.world_size} in another file"
            raise Refusal(profile.path, "distributedInfo.world_size", problem, "give the profiles of one run")
        kinds, other = ({call.source for call in one.calls if call.source in _SIZED} for one in (profile, first))
        if kinds and other and kinds != other:
            problem = f"has collectives by {kinds.pop()}, and {first.path.name} by {other.pop()}"
            raise Refusal(profile.path, "traceEvents", problem, "give the profiles of one run")
    return [profiles[rank] for rank in sorted(profiles)]


def _refuse_endless(path: Path, sources: Sequence[Recorded]) -> None:
    """Refuses more than `_MOST_ENTRIES` records and splits in all, as copies of a profile can make."""
    entries = {id(one): sum(1 + len(call.in_splits or ()) for call in one.operations) for one in sources}
    total = sum(entries[id(source)] for source in sources)
    if total > _MOST_ENTRIES:
        problem = f"{len(sources):,} ranks make {total:,} records and splits, more than {_MOST_ENTRIES:,}"
        raise Refusal(path, "ranks", problem, "give fewer --ranks, or profile fewer steps")


def _recorded(profile: Profile, groups: Groups, experts: Experts | None) -> Recorded:
    """The calls of a profile with known sizes, as steps and operations."""
    calls = [call for call in profile.calls if call.source in _SIZED or (call.source == "expert" and experts)]
    operations = [
        _exchange(call, profile.rank, groups, experts) or Arguments(profile, call, groups).operation() for call in calls
    ]
    alike = [(len(one.ranks), (one.op, one.ranks, one.bytes_in, one.bytes_out)) for one in operations]
    return Recorded(profile, calls, program(profile, calls), operations, waits(profile, calls, alike))


def _exchange(call: Call, rank: int, groups: Groups, experts: Experts | None) -> Operation | None:
    """The all-to-all of a rank with experts; None if the call is no exchange with experts."""
    if call.source != "expert" or experts is None:
        return None
    return experts.operation(call.kind, str(call.args["family"]), groups.find("expert", None, rank), rank)


def _operations(source: Recorded, rank: int, groups: Groups, experts: Experts | None) -> Sequence[Operation]:
    """The operations of a rank: of its profile, or copied from another rank's profile."""
    own = source.profile.rank
    if rank == own:
        return source.operations
    return [
        _exchange(call, rank, groups, experts) or copied(operation, own, rank, str(source.profile.path))
        for call, operation in zip(source.calls, source.operations, strict=True)
    ]


def _names(operations: Sequence[Sequence[Operation]], sources: Sequence[Recorded]) -> Names:
    """A name for each process group; where one name stands for several groups, with the group's first rank."""
    groups = dict.fromkeys((operation.group, operation.ranks) for of_rank in operations for operation in of_rank)
    for rank, source in enumerate(sources):
        if any(step.call is None for step in source.steps):
            groups[_ALONE, (rank,)] = None
    total = Counter(name for name, _ in groups)
    everyone = tuple(range(len(operations)))
    names = {}
    for number, (name, ranks) in enumerate(groups):
        plain = name or ("world" if ranks == everyone else f"group{number}")
        names[name, ranks] = plain if total[name] == 1 else f"{plain}@{ranks[0]}"
    if len(set(names.values())) < len(names):
        names = {key: f"{name}#{number}" for number, (key, name) in enumerate(names.items())}
    return names


def _header(profiles: Sequence[Profile], names: Names) -> dict[str, Any]:
    on_host = Counter(profile.host for profile in profiles)
    shared = set(on_host.values()) if "" not in on_host else {1}
    return {
        "format": "flowfabric.collectives/1",
        "source": "recorded",
        "world_size": profiles[0].world_size,
        "ranks_per_node": shared.pop() if len(shared) == 1 else 1,
        "groups": {name: list(ranks) for (_, ranks), name in names.items()},
        "steps": sorted({call.step for profile in profiles for call in profile.calls}),
        "config_sha256": None,
        "torch": None,
        "clock": "device" if all(profile.has_kernels for profile in profiles) else "host",
    }


def _records(rank: int, source: Recorded, operations: Sequence[Operation], names: Names) -> Iterator[dict[str, Any]]:
    """Yields the records of a rank, one for each line of the trace."""
    alone = Operation("barrier", _ALONE, (rank,), "byte", 0, 0)
    number, phase = min((call.step for call in source.profile.calls), default=0), "forward"
    zero_ns: dict[int, int] = {}
    for seq, step in enumerate(source.steps):
        operation, end_ns, late_ns = alone, step.at_ns + step.gap_ns, 0
        if step.call is not None:
            call, operation = source.calls[step.call], operations[step.call]
            number, phase, end_ns = call.step, call.phase, call.end_ns
            if rank != source.profile.rank and len(operation.ranks) > 1 and operation.peer is None:
                late_ns = source.waits.exposed_ns[step.call]
        begin_ns = zero_ns.setdefault(number, step.at_ns)
        yield {
            "rank": rank,
            "seq": seq,
            "step": number,
            "micro": 0,
            "phase": phase,
            "op": operation.op,
            "group": names[operation.group, operation.ranks],
            "size1": len(operation.ranks) == 1,
            "dtype": operation.dtype,
            "bytes_in": operation.bytes_in,
            "bytes_out": operation.bytes_out,
            "in_splits": operation.in_splits,
            "out_splits": operation.out_splits,
            "root": operation.root,
            "peer": operation.peer,
            "tag": None,
            "async": step.wait is not None,
            "wait_seq": step.wait,
            "gap_ns": step.gap_ns + late_ns,
            "t_issue_ns": step.at_ns - begin_ns,
            "t_done_ns": end_ns - begin_ns,
            "layer": None,
        }


def _check(path: Path, written: Path) -> None:
    """Refuses a trace that cannot be replayed, such as one whose ranks call different collectives."""
    try:
        trace = TraceWorkload(TraceConfig(kind="trace", path=str(written)))
        trace.extend(Program(), range(trace.size(0)), 0, _nothing)
    except Refusal as error:
        raise Refusal(path, "profiles", f"contradict each other: {error.problem}", _REMEDY) from None


def _nothing(operation: Collective, ranks: Sequence[int]) -> list[Message]:  # noqa: ARG001
    return []


def _notices(given: Sequence[Recorded], groups: Groups, world_size: int) -> Iterator[str]:
    bare = sum(not one.profile.has_kernels for one in given)
    if bare:
        yield f"{bare} profiles have no kernels of NCCL: their gaps are those between calls of the host"
    if len(given) < world_size:
        ranks = ", ".join(str(one.profile.rank) for one in given[:4]) + (", ..." if len(given) > 4 else "")
        late_ms = max(sum(one.waits.exposed_ns) for one in given) / 1e6
        copies = f"others copy the last at or below them, and come {late_ms:.3g} ms later in all, as it waited"
        yield f"{len(given)} of {world_size} ranks have a profile ({ranks}); {copies}"
    for size in sorted(groups.assumed):
        yield f"groups of {size} ranks are assumed to have consecutive ranks; if not, give --group NAME={size}xSTRIDE"
    cut_off = sum(operation.assumed for one in given for operation in one.operations)
    if cut_off:
        assumption = "the others get equal parts of the rest"
        yield f"the profiler cut off the splits of {cut_off} all-to-alls behind {MOST_LISTED} ranks: {assumption}"
    left = Counter(call.kind for one in given for call in one.profile.calls if call not in one.calls)
    if left:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(left.items()))
        more = ": give --tokens, --hidden, --experts and --top-k" if {"dispatch", "combine"} & left.keys() else ""
        yield f"kernels whose sizes are unknown count with their recorded times ({kinds}){more}"
