"""Merging the ranks' files into one trace, refused unless they tell one story."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from moe.collective_trace import CollectiveRecord, TraceHeader, rank_path, read, write
from moe.files import FileError
from trainer.trace.groups import Ranks, canonical_names

_REMEDY = "record the step again on every rank"


def merge(folder: Path, world_size: int) -> bool:
    """Merge `folder`'s rank files into `folder/collectives.jsonl`, in the order of ranks, then of their records.

    A group's members must have issued the same operations with sizes that fit, and every send needs its recv.

    Args:
        folder: where the ranks wrote their files.
        world_size: number of ranks that recorded.

    Returns:
        Whether the trace is steady, see :func:`is_steady`.

    Raises:
        FileError: a file is missing or malformed, or the ranks disagree; names the file, rank, seq and field.
    """
    paths = [rank_path(folder, rank) for rank in range(world_size)]
    traces = [read(path) for path in paths]
    header = _common_header(paths, [header for header, _ in traces])
    names = canonical_names(group for own, _ in traces for group in own.groups.items())
    records = [
        [replace(record, group=names[record.group, own.groups[record.group]]) for record in of_rank]
        for own, of_rank in traces
    ]
    groups = {name: ranks for (_, ranks), name in names.items()}
    check(paths, groups, records)
    write(folder / "collectives.jsonl", replace(header, groups=groups), (item for rank in records for item in rank))
    return is_steady(header.steps, records)


def _common_header(paths: Sequence[Path], headers: Sequence[TraceHeader]) -> TraceHeader:
    """The header that all files share but for their group tables."""
    first = headers[0]
    for path, header in zip(paths, headers, strict=True):
        for field in ("source", "world_size", "ranks_per_node", "steps", "config_sha256", "torch"):
            own, other = getattr(header, field), getattr(first, field)
            if own != other:
                raise FileError(path, f"line 1, {field}", f"differs from rank 0's {other} ({own})", _REMEDY)
    if first.world_size != len(paths):
        raise FileError(paths[0], "line 1, world_size", f"is not {len(paths)} ({first.world_size})", _REMEDY)
    return first


def check(paths: Sequence[Path], groups: dict[str, Ranks], records: Sequence[Sequence[CollectiveRecord]]) -> None:
    """Refuse records that cannot have come from one run.

    Args:
        paths: file of each rank, for the message.
        groups: name to global ranks.
        records: by rank, in the rank's order.

    Raises:
        FileError: ranks disagree in number, kind or size of their operations.
    """
    for rank, of_rank in enumerate(records):
        for record in of_rank:
            if record.rank != rank:
                raise FileError(paths[rank], _place(record, "rank"), f"must be {rank} ({record.rank})", _REMEDY)
    for name, ranks in groups.items():
        members = [[item for item in records[rank] if item.group == name and item.peer is None] for rank in ranks]
        _same_length(paths, name, ranks, members)
        for together in zip(*members, strict=True):
            _fits(paths, together)
    _point_to_point(paths, records)


def _place(record: CollectiveRecord, field: str) -> str:
    return f"rank {record.rank} seq {record.seq}, {field}"


def _same_length(
    paths: Sequence[Path], group: str, ranks: Ranks, members: Sequence[Sequence[CollectiveRecord]]
) -> None:
    """Every member issued as many operations as the others; names the first that has no partner."""
    counts = {rank: len(records) for rank, records in zip(ranks, members, strict=True)}
    fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[fewest] != counts[most]:
        extra = members[ranks.index(most)][counts[fewest]]
        problem = f"{extra.op} on group {group} is missing on rank {fewest} ({counts[most]} against {counts[fewest]})"
        raise FileError(paths[most], _place(extra, "op"), problem, _REMEDY)


def _fits(paths: Sequence[Path], together: Sequence[CollectiveRecord]) -> None:
    """One operation as its members issued it, in the order of the group."""

    def require(field: str, expected: Callable[[int, CollectiveRecord], object], meaning: str) -> None:
        for index, record in enumerate(together):
            value, wanted = getattr(record, field), expected(index, record)
            if value != wanted:
                raise FileError(
                    paths[record.rank], _place(record, field), f"must be {wanted}, {meaning} ({value})", _REMEDY
                )

    first = together[0]
    for field in ("op", "step", "micro", "phase", "dtype", "root"):
        require(field, lambda _index, _record, field=field: getattr(first, field), f"as on rank {first.rank}")
    if first.op in ("all_reduce", "reduce_scatter"):
        require("bytes_in", lambda *_: first.bytes_in, f"as on rank {first.rank}")
    if first.op in ("all_gather", "broadcast"):
        total = sum(record.bytes_in for record in together)
        require("bytes_out", lambda *_: total, "what all members contribute")
    if first.op == "reduce_scatter":
        total = sum(record.bytes_out for record in together)
        require("bytes_in", lambda *_: total, "what all members hold afterwards")
    if first.op == "all_to_all":
        sent = [record.in_splits or () for record in together]
        require("out_splits", lambda index, _: tuple(row[index] for row in sent), "what the members send to this rank")


def _point_to_point(paths: Sequence[Path], records: Sequence[Sequence[CollectiveRecord]]) -> None:
    """Every send has its recv: same group and tag, in order, with the same step and bytes."""
    sends: dict[tuple[str, int, int | None, int | None], list[CollectiveRecord]] = {}
    recvs: dict[tuple[str, int, int | None, int | None], list[CollectiveRecord]] = {}
    for of_rank in records:
        for record in of_rank:
            if record.op == "send":
                sends.setdefault((record.group, record.rank, record.peer, record.tag), []).append(record)
            elif record.op == "recv":
                recvs.setdefault((record.group, record.peer or 0, record.rank, record.tag), []).append(record)
    for key in sends.keys() | recvs.keys():
        out, into = sends.get(key, []), recvs.get(key, [])
        if len(out) != len(into):
            alone = max(out, into, key=len)[min(len(out), len(into))]
            raise FileError(
                paths[alone.rank], _place(alone, "peer"), f"{alone.op} has no partner on rank {alone.peer}", _REMEDY
            )
        for send, recv in zip(out, into, strict=True):
            for field, value, wanted in (("step", recv.step, send.step), ("bytes_out", recv.bytes_out, send.bytes_in)):
                if value != wanted:
                    raise FileError(
                        paths[recv.rank], _place(recv, field), f"must be {wanted}, as sent ({value})", _REMEDY
                    )


def is_steady(steps: Sequence[int], records: Sequence[Sequence[CollectiveRecord]]) -> bool:
    """Whether two or more consecutive steps were recorded and each rank issued the same operations in all of them.

    Sizes must be the same too, but for those that follow the routing: of all-to-alls, and of the groups that share
    experts, where coherent dispatch gathers the keys and values of as many tokens as the fullest rank holds.

    Args:
        steps: recorded steps, ascending.
        records: by rank.
    """
    consecutive = len(steps) > 1 and all(second == first + 1 for first, second in pairwise(steps))
    return consecutive and all(len({tuple(_signatures(of_rank, step)) for step in steps}) == 1 for of_rank in records)


def _signatures(records: Sequence[CollectiveRecord], step: int) -> Iterator[tuple[object, ...]]:
    for record in records:
        if record.step == step:
            sizes = () if _follows_the_routing(record) else (record.bytes_in, record.bytes_out)
            yield (record.micro, record.phase, record.op, record.group, record.dtype, record.peer, *sizes)


def _follows_the_routing(record: CollectiveRecord) -> bool:
    if record.op == "all_to_all":
        return True
    return record.op in ("all_gather", "reduce_scatter") and re.fullmatch(r"expert(_\d+)?", record.group) is not None
