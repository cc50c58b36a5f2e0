"""Merges the ranks' files into one trace, in a process beside the run; refuses files that disagree.

python -m trainer.trace.merge FOLDER [routing]
"""

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from moe.collective_trace import CollectiveRecord, TraceHeader, rank_path, read, read_header
from moe.routing_trace import ARRAYS, RoutingHeader, RoutingTrace
from netsim.foundation.files import replacing
from netsim.foundation.refusal import DiskFull, Refusal
from trainer.distributed.process.children import killed_with_parent
from trainer.trace.agreement import REMEDY, Agreement, Ranks, canonical_names
from trainer.trace.columns import Codes, Columns, Odd, mixed, parse, word_code

_ALL_TO_ALL, _ALL_GATHER, _REDUCE_SCATTER = (word_code(op) for op in (b"all_to_all", b"all_gather", b"reduce_scatter"))


def is_steady(steps: Sequence[int], columns: Columns, groups: Iterable[str]) -> bool:
    """Whether at least two consecutive steps were recorded and a rank issued the same operations in all of them.

    Sizes that depend on the routing may differ: of all-to-alls, and of groups that share experts, where coherent
    dispatch gathers keys and values for the fullest rank's number of tokens. Where steps share rollouts, cycles of
    steps must be equal, and the steps must reach into a second cycle.
    """
    if len(steps) < 2 or any(second != first + 1 for first, second in pairwise(steps)):
        return False
    signatures = _signatures(columns, groups)
    per_step = [signatures[columns.step == np.uint64(step)] for step in steps]
    return any(_repeats(per_step, cycle) for cycle in range(1, len(steps)))


def _repeats(steps: Sequence[Codes], cycle: int) -> bool:
    return all(np.array_equal(step, earlier) for step, earlier in zip(steps[cycle:], steps, strict=False))


def _signatures(columns: Columns, groups: Iterable[str]) -> Codes:
    """A hash of each record's fields that must repeat in every step."""
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

    Refuses files that disagree. Holds one rank in memory at a time. Returns whether the trace is steady (`is_steady`).
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
    """Raises Refusal for records, by rank and in its order, that cannot have come from one run."""
    agreement = Agreement(groups)
    for rank, of_rank in enumerate(records):
        agreement.hear(rank, Columns.of(of_rank))
    agreement.refuse(paths, records.__getitem__)


def _common_header(paths: Sequence[Path], headers: Sequence[TraceHeader]) -> TraceHeader:
    """The header that all files share, apart from group tables and format version; refuses other differences."""
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
    """Yields a rank's records block by block, each with its lines as this project writes them."""
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
    """Replaces the records' group names by those of the merged trace."""
    group = columns.group.copy()
    for old, new in names.items():
        if old != new:
            group[columns.group == word_code(old.encode())] = word_code(new.encode())
    return replace(columns, group=group)


def _renamed_lines(lines: bytes, names: Mapping[str, str]) -> bytes:
    """Renames groups in text; quotation marks in words are escaped, so that no part of a word can match."""
    if all(old == new for old, new in names.items()):
        return lines
    words = {json.dumps(old).encode(): json.dumps(new).encode() for old, new in names.items()}
    return _GROUP.sub(lambda match: words[match[0]], lines)


def _records(paths: Sequence[Path], names: Mapping[tuple[str, Ranks], str], rank: int) -> Iterator[CollectiveRecord]:
    """A rank's records, with the group names of the merged trace."""
    header, records = read(paths[rank])
    return (replace(record, group=names[record.group, header.groups[record.group]]) for record in records)


def routing_path(folder: Path, rank: int) -> Path:
    """Path of a rank's routing before the merge."""
    return folder / f"routing.rank_{rank:05d}.npz"


def merge_routing(folder: Path, world_size: int) -> None:
    """Joins the ranks' files to ``routing.npz``, in the order of ranks; holds one rank in memory at a time."""
    paths = [routing_path(folder, rank) for rank in range(world_size)]
    header, forms = _form(paths[0])
    for path in paths[1:]:
        other, of_rank = _form(path)
        if other != header:
            raise Refusal(path, "header", "differs from rank 0's", REMEDY)
        if of_rank.keys() != forms.keys():
            raise Refusal(path, "arrays", f"must be {', '.join(forms)} ({', '.join(of_rank)})", REMEDY)
        for name, (dtype, shape) in of_rank.items():
            known, (tokens, *inner) = forms[name]
            forms[name] = np.promote_types(known, dtype), (tokens + shape[0], *inner)
    with replacing(folder / "routing.npz") as unfinished, zipfile.ZipFile(unfinished, "w", allowZip64=True) as archive:
        with archive.open("header.npy", "w", force_zip64=True) as member, np.load(paths[0]) as first:
            npy.write_array(member, first["header"])
        for name, (dtype, shape) in forms.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                described = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                npy.write_array_header_1_0(member, described)
                for path in paths:
                    with np.load(path) as arrays:
                        member.write(np.ascontiguousarray(arrays[name], dtype).data)


def _form(path: Path) -> tuple[RoutingHeader, dict[str, tuple[np.dtype, tuple[int, ...]]]]:
    """The header of a rank's file, which is checked, and the types and shapes of its arrays."""
    trace = RoutingTrace.read(path)
    arrays = {name: getattr(trace, name) for name in ARRAYS}
    return trace.header, {name: (array.dtype, array.shape) for name, array in arrays.items() if array is not None}


PATIENCE_S = 5.0
"""Longest wait for a merge after a signal stopped the run."""
NICENESS = 10


class Merging:
    """Merges the ranks' records in a process that ends with this one.

    ``collectives.jsonl`` is written last. While it is missing or holds other steps, the traces count as unmerged, and
    the run's next start merges them. Earlier merged traces of other steps move to a folder such as
    ``steps_00000017-00000019``.
    """

    def __init__(self, folder: Path, *, routing: bool) -> None:
        """Starts the process and returns at once; `routing` says whether the ranks recorded routing too."""
        self._folder = folder
        _keep_former(folder)
        command = killed_with_parent([sys.executable, "-m", "trainer.trace.merge", str(folder), *["routing"] * routing])
        # Its own session: a signal to the run's ranks does not end it.
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    @classmethod
    def outstanding(cls, folder: Path, *, routing: bool) -> "Merging | None":
        """Starts a merge if an earlier process of the run left unmerged traces; else returns None."""
        begun = rank_path(folder, 0).exists() and _steps(folder / "collectives.jsonl") != _steps(rank_path(folder, 0))
        return cls(folder, routing=routing) if begun else None

    def finish(self, *, stopped: bool) -> None:
        """Waits for the merge and prints its warning; if the run was `stopped`, waits for :data:`PATIENCE_S` at most.

        Raises Refusal if the files cannot be merged, DiskFull, and RuntimeError if the process died.
        """
        try:
            output, _ = self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            if stopped:
                self._process.kill()
                self._process.communicate()
                print(f"{self._folder}: not yet merged; the next start merges it", file=sys.stderr, flush=True)
                return
            print(f"{self._folder}: waits for the merge of what was recorded", file=sys.stderr, flush=True)
            output, _ = self._process.communicate()
        if not output:
            raise RuntimeError(f"{self._folder}: the process that merges ended with {self._process.returncode}")
        answer = json.loads(output)
        if "refused" in answer:
            raise Refusal(*answer["refused"])
        if "full" in answer:
            raise DiskFull(answer["full"])
        if not answer["steady"]:
            print(
                f"{self._folder}: the recorded steps are not alike, so none may be typical; "
                "give two or more steps in a row (trace.steps), not the first two; "
                "where steps share rollouts, those of a cycle and one more",
                file=sys.stderr,
            )


def _steps(trace: Path) -> tuple[int, ...]:
    """Optimiser steps that a trace holds; () if the file is missing or damaged."""
    try:
        return read_header(trace).steps
    except Refusal:
        return ()


def _keep_former(folder: Path) -> None:
    """Moves merged traces of other steps to a folder named after them; deletes a trace of the same steps."""
    merged = folder / "collectives.jsonl"
    former = _steps(merged)
    if not former or former == _steps(rank_path(folder, 0)):
        merged.unlink(missing_ok=True)
        return
    kept = folder / f"steps_{former[0]:08}-{former[-1]:08}"
    kept.mkdir(exist_ok=True)
    for file in (folder / "routing.npz", merged):  # the collectives last: until then the new traces are not merged
        if file.exists():
            file.replace(kept / file.name)


def main(arguments: Sequence[str]) -> None:
    """Merges a folder (and its ``routing``); prints as JSON whether the trace is steady, or why it was refused."""
    folder = Path(arguments[0])
    try:
        world_size = read_header(rank_path(folder, 0)).world_size
        if "routing" in arguments[1:]:
            merge_routing(folder, world_size)
        print(json.dumps({"steady": merge(folder, world_size)}))
    except Refusal as error:
        print(json.dumps({"refused": [error.file, error.field, error.problem, error.remedy]}))
    except DiskFull as error:
        print(json.dumps({"full": str(error)}))


if __name__ == "__main__":
    os.nice(NICENESS)  # the ranks compute meanwhile
    main(sys.argv[1:])
