"""data.json: a record of a run's data at its beginning, by which a resume notices changes of the data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch.distributed as dist
from pydantic import NonNegativeInt

from netsim.foundation.documents import JsonFile
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.checkpoint.writers import RankError, together
from trainer.config.run import RunConfig
from trainer.data import Dataset
from trainer.data.files import DataFiles, found_once

NAME = "data.json"
REMEDY = "bring back what the run began with, or give another run.dir to start anew"
_GROUPS_AT_ONCE = 16


class FilesRecord(Section):
    """The files of one folder at the beginning of a run."""

    folder: Path
    number: NonNegativeInt
    """Number of files."""
    sample: tuple[str, ...]
    """Name, length and digest of the files that were sampled."""
    times_ns: tuple[int, ...]
    """When each of these was last written."""
    whole: tuple[str, ...] | None = None
    """Digests of whole files, in groups; null until all are read whole."""


class DataRecord(JsonFile):
    """The files of a run's data at its beginning."""

    remedy: ClassVar[str] = "restore it from a copy, or delete it to record the data as they are now"

    format: Literal["flowfabric.data/1"] = "flowfabric.data/1"
    key: NonNegativeInt
    """The run's seed, which decided the sampled files and blocks."""
    sets: tuple[FilesRecord, ...]


def sampled(config: RunConfig, dataset: Dataset, rank: int, *, resumes: bool) -> tuple[DataRecord, list[str]]:
    """Samples the files of a run's data: the record of the run's beginning, and lines for a person.

    Rank 0 reads the sample, as does the first rank of each other node that has its own files. Raises ValueError if the
    content of a file differs from that at the beginning, or between nodes.
    """
    path = config.run.dir / NAME
    before = DataRecord.read(path) if resumes and path.exists() else None
    key = config.run.seed if before is None else before.key
    sets = []
    for number, files in enumerate(dataset.files):
        sample = found_once(f"{files.folder}: content of data {number}", partial(files.sample, key), files.folder)
        times = _times_ns(files, key) if rank == 0 else ()
        sets.append(FilesRecord(folder=files.folder, number=len(files.names), sample=tuple(sample), times_ns=times))
    now = DataRecord(key=key, sets=tuple(sets))
    if before is not None:
        return before, [*_compared(before, now, dataset.files)] if rank == 0 else []
    lost = [f"{path}: is missing; the data are recorded as they are now"] if resumes and sets else []
    return now, lost


def verify(run_dir: Path, files: Sequence[DataFiles], beat: Callable[[], None]) -> None:
    """Compares the whole data, divided over the ranks, with the record; collective, refuses on every rank."""
    record = DataRecord.read(run_dir / NAME)
    sets = [
        one.model_copy(update={"whole": _verified(one.whole, data, beat)})
        for one, data in zip(record.sets, files, strict=True)
    ]
    if dist.get_rank() == 0:
        first = any(one.whole is None for one in record.sets)
        record.model_copy(update={"sets": tuple(sets)}).write(run_dir / NAME)
        said = "are recorded, to be compared the next time" if first else "hold what they held"
        print(f"{run_dir / NAME}: the data were read whole and {said}", file=sys.stderr, flush=True)


def _compared(before: DataRecord, now: DataRecord, files: Sequence[DataFiles]) -> Iterator[str]:
    """Refuses changed data; yields a line for files that were rewritten with the same sampled content."""
    for old, new, data in zip(before.sets, now.sets, files, strict=False):
        different = [one for one, other in zip(old.sample, new.sample, strict=False) if one != other]
        if different or old.number != new.number:
            name = different[0].rsplit(" ", 2)[0] if different else ""
            more = (
                f" (as do {len(different) - 1} more of {len(new.sample)} sampled files)" if len(different) > 1 else ""
            )
            raise Refusal(new.folder / name, "content", f"differs from what the run learned from{more}", REMEDY)
        share = data.share_bytes(now.key)
        times = zip(new.sample, old.times_ns, new.times_ns, strict=False)
        newer = [line for line, then, time in times if then != time and _size(line) > share]
        if newer:
            yield (
                f"{new.folder / newer[0].rsplit(' ', 2)[0]}: was written again ({len(newer)} of {len(new.sample)} "
                "sampled files were); lengths and samples are the same, and --verify-data compares the whole content"
            )


def _verified(known: Sequence[str] | None, files: DataFiles, beat: Callable[[], None]) -> tuple[str, ...]:
    """Digests of all groups of files, read by all ranks together; refuses those that differ from `known`."""
    groups, rank, world_size = files.groups, dist.get_rank(), dist.get_world_size()
    of_groups: dict[int, str] = {}
    for first in range(0, len(groups), world_size * _GROUPS_AT_ONCE):
        own = range(first + rank, min(first + world_size * _GROUPS_AT_ONCE, len(groups)), world_size)
        try:
            parts = together(lambda own=own: {number: files.whole(groups[number]) for number in own})
        except RankError as error:
            raise Refusal(files.folder, "content", f"cannot be read ({error})", REMEDY) from error
        for part in parts:
            of_groups |= part
        beat()
    digests = tuple(of_groups[number] for number in range(len(groups)))
    for group, one, other in zip(groups, known or digests, digests, strict=False):
        if one != other:
            among = f", or one of the {len(group) - 1} files after it does" if len(group) > 1 else ""
            raise Refusal(files.folder / group[0], "content", f"differs from what the run learned from{among}", REMEDY)
    return digests


def _times_ns(files: DataFiles, key: int) -> tuple[int, ...]:
    """Modification times of the sampled files; 0 for a file that cannot be accessed."""
    times = []
    for name in files.sampled(key):
        try:
            times.append((files.folder / name).stat().st_mtime_ns)
        except OSError:
            times.append(0)
    return tuple(times)


def _size(line: str) -> int:
    """Length of the file that a line of a sample describes."""
    size = line.rsplit(" ", 2)[1]
    return int(size) if size.isdigit() else 0
