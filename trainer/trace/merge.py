"""Merging the ranks' files into one trace, refused unless they tell one story."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from moe.collective_trace import CollectiveRecord, TraceHeader, rank_path, read, read_header
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal
from trainer.trace.agreement import REMEDY, Agreement
from trainer.trace.columns import Codes, Columns, mixed, word_code
from trainer.trace.groups import Ranks, canonical_names
from trainer.trace.lines import Odd, parse

_ALL_TO_ALL, _ALL_GATHER, _REDUCE_SCATTER = (word_code(op) for op in (b"all_to_all", b"all_gather", b"reduce_scatter"))


def is_steady(steps: Sequence[int], columns: Columns, groups: Iterable[str]) -> bool:
    """Whether two or more consecutive steps were recorded and a rank issued the same operations in all of them.

    Sizes must be the same too, but for those that follow the routing: of all-to-alls, and of the groups that share
    experts, where coherent dispatch gathers the keys and values of as many tokens as the fullest rank holds. Where
    steps share what a task collects, only the first of them has rollouts: then cycles must be alike, of which more than
    one must have been begun.
    """
    if len(steps) < 2 or any(second != first + 1 for first, second in pairwise(steps)):
        return False
    signatures = _signatures(columns, groups)
    found = [signatures[columns.step == np.uint64(step)] for step in steps]
    return any(_repeats(found, cycle) for cycle in range(1, len(steps)))


def _repeats(steps: Sequence[Codes], cycle: int) -> bool:
    return all(np.array_equal(step, earlier) for step, earlier in zip(steps[cycle:], steps, strict=False))


def _signatures(columns: Columns, groups: Iterable[str]) -> Codes:
    """A number for what must be alike of each record."""
    shared = [word_code(name.encode()) for name in groups if re.fullmatch(r"expert(_\d+)?", name)]
    gathers = (columns.op == _ALL_GATHER) | (columns.op == _REDUCE_SCATTER)
    routed = (columns.op == _ALL_TO_ALL) | gathers & np.isin(columns.group, np.array(shared, np.uint64))
    sizes = (np.where(routed, np.uint64(0), total) for total in (columns.bytes_in, columns.bytes_out))
    alike = (getattr(columns, name) for name in ("phase", "op", "group", "dtype", "peer"))
    return mixed(columns.micro, *alike, *sizes)


BLOCK_BYTES = 2**22
_GROUP = re.compile(rb'(?<="group":)"(?:[^"\\]|\\.)*"')


def merge(folder: Path, world_size: int) -> bool:
    """Merges the ranks' files into ``collectives.jsonl``, in the order of ranks, then of their records.

    A group's members must have issued the same operations with sizes that fit, and every send needs its recv. One rank
    is in memory at a time. True if the trace is steady (`is_steady`).
    """
    paths = [rank_path(folder, rank) for rank in range(world_size)]
    headers = [read_header(path) for path in paths]
    header = _common_header(paths, headers)
    names = canonical_names(group for own in headers for group in own.groups.items())
    version = max(own.version for own in headers)
    header = replace(header, groups={name: ranks for (_, ranks), name in names.items()}, version=version)
    agreement = Agreement(header.groups)
    steady = True
    with replacing(folder / "collectives.jsonl") as unfinished, unfinished.open("wb") as merged:
        merged.write(f"{header.to_json()}\n".encode())
        for rank, own in enumerate(headers):
            renamed = {name: names[name, ranks] for name, ranks in own.groups.items()}
            parts = []
            for columns, lines in _parts(paths[rank], own, rank):
                parts.append(_renamed(columns, renamed))
                merged.write(_renamed_lines(lines, renamed))
            columns = Columns.joined(parts)
            agreement.hear(rank, columns)
            steady = steady and is_steady(header.steps, columns, header.groups)
        agreement.refuse(paths, partial(_records, paths, names))
    return steady


def check(paths: Sequence[Path], groups: Mapping[str, Ranks], records: Sequence[Sequence[CollectiveRecord]]) -> None:
    """Refuses records, by rank and in its order, that cannot have come from one run."""
    agreement = Agreement(groups)
    for rank, of_rank in enumerate(records):
        agreement.hear(rank, Columns.of(of_rank))
    agreement.refuse(paths, records.__getitem__)


def _common_header(paths: Sequence[Path], headers: Sequence[TraceHeader]) -> TraceHeader:
    """The header that all files share but for their group tables and the version that their phases need."""
    first = headers[0]
    for path, header in zip(paths, headers, strict=True):
        for field in ("source", "world_size", "ranks_per_node", "steps", "config_sha256", "torch", "clock"):
            own, other = getattr(header, field), getattr(first, field)
            if own != other:
                raise Refusal(path, f"line 1, {field}", f"differs from rank 0's {other} ({own})", REMEDY)
    if first.world_size != len(paths):
        raise Refusal(paths[0], "line 1, world_size", f"is not {len(paths)} ({first.world_size})", REMEDY)
    return first


def _parts(path: Path, header: TraceHeader, rank: int) -> Iterator[tuple[Columns, bytes]]:
    """A rank's records, block after block, and their lines as this project writes them."""
    known, seq = 0, -1
    with path.open("rb") as file:
        try:
            if b"\r" in file.readline():
                raise Odd
            while block := file.read(BLOCK_BYTES) + file.readline():
                columns = parse(block, header, rank, seq)
                yield columns, block
                known, seq = known + len(columns), int(columns.seq[-1])
            return
        except Odd:
            records = read(path)[1][known:]
    yield Columns.of(records), "".join(f"{record.to_json()}\n" for record in records).encode()


def _renamed(columns: Columns, names: Mapping[str, str]) -> Columns:
    """Records that name their groups as the merged trace does."""
    group = columns.group.copy()
    for old, new in names.items():
        if old != new:
            group[columns.group == word_code(old.encode())] = word_code(new.encode())
    return replace(columns, group=group)


def _renamed_lines(lines: bytes, names: Mapping[str, str]) -> bytes:
    """The same in their text. A quotation mark within a word has a backslash, so what is matched is no part of one."""
    if all(old == new for old, new in names.items()):
        return lines
    words = {json.dumps(old).encode(): json.dumps(new).encode() for old, new in names.items()}
    return _GROUP.sub(lambda found: words[found[0]], lines)


def _records(paths: Sequence[Path], names: Mapping[tuple[str, Ranks], str], rank: int) -> Iterator[CollectiveRecord]:
    """A rank's records, which name their groups as the merged trace does."""
    header, records = read(paths[rank])
    return (replace(record, group=names[record.group, header.groups[record.group]]) for record in records)
