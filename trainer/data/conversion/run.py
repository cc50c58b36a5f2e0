"""Conversion of a user's examples to a folder of shards."""

import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open

from netsim.foundation.refusal import Refusal, check_least, lies_in
from netsim.foundation.terminal import Terminal
from trainer.data.conversion.pictures import PictureFolder, SavedDataset, is_saved_dataset
from trainer.data.conversion.source import ArraySource, Reading, Source, Unreadable
from trainer.data.shard.index import INDEX, ShardIndex, largest, listed
from trainer.data.shard.writer import moments_of, save_shard, statistics_of

KINDS = "an npz or npy file, a folder of pictures, or a folder that save_to_disk of Hugging Face's datasets wrote"


def open_source(path: Path, reading: Reading, scratch: Path) -> Source:
    """Opens a user's examples; `scratch` is on a disk with capacity for unpacked arrays."""
    if path.is_file() and path.suffix in (".npz", ".npy"):
        return ArraySource(path, reading, scratch)
    if not path.is_dir():
        problem = "is not a kind of file that is read" if path.exists() else "is not there"
        raise Refusal(path, "source", problem, f"give {KINDS}")
    if is_saved_dataset(path):
        return SavedDataset(path, reading)
    if (path / INDEX).exists():
        remedy = f"train on it as it is (data={{kind: shards, path: {path}}})"
        raise Refusal(path, "source", "is a folder of shards already", remedy)
    return PictureFolder(path, reading)


MARK = "shards"
"""Key of the metadata that decides a shard's examples."""
ELSEWHERE = "give another folder, or delete this one"


class ShardFolder:
    """Numbered shards, each with a mark of its examples, options and seed; the folder is made with the first shard."""

    def __init__(self, path: Path, mark: str) -> None:
        self._path, self._mark = path, mark
        self._made = not path.exists()
        for unfinished in path.glob(".shard_*.safetensors.*.partial"):
            unfinished.unlink()
        self.kept = {int(file.name[6:-12]): self._examples(file) for file in sorted(path.glob("shard_*.safetensors"))}
        """Number of examples of each shard that an earlier start has finished, by its number."""
        if (path / INDEX).exists() and not self.kept:
            raise Refusal(path / INDEX, "output", "is there without its shards", ELSEWHERE)

    @property
    def index(self) -> ShardIndex | None:
        """The index of the folder; None while the folder is incomplete."""
        return ShardIndex.read(self._path) if (self._path / INDEX).exists() else None

    def size_bytes(self) -> int:
        return sum(self._file(number).stat().st_size for number in self.kept)

    def data(self, number: int) -> NDArray[Any]:
        with safe_open(self._file(number), framework="np") as file:
            return file.get_tensor("data")

    def write(
        self, number: int, data: NDArray[Any], labels: NDArray[np.int64] | None, examples: NDArray[np.int64]
    ) -> None:
        """Writes a shard: `data` [B, *shape], `labels` [B] or None, `examples` [B] the number of each in the source."""
        arrays = {"data": data, "examples": examples} | ({} if labels is None else {"labels": labels})
        save_shard(self._file(number), arrays, {MARK: self._mark})

    def finish(self, said: Mapping[str, Any], shards: Mapping[int, tuple[int, tuple[int, ...]]]) -> None:
        """Writes the index: the fields `said`, and `shards`, number of examples and shape by number of the shard."""
        entries = [
            {"file": self._file(number).name, "num_examples": count, "shape": shape if shape != said["shape"] else None}
            for number, (count, shape) in shards.items()
        ]
        ShardIndex.model_validate({**said, "shards": entries}).write(self._path)

    def remove(self) -> None:
        """Removes all shards, also those of earlier starts, and the folder if this start made it."""
        for file in self._path.glob("shard_*.safetensors"):
            file.unlink()
        if self._made and self._path.exists():
            self._path.rmdir()

    def _file(self, number: int) -> Path:
        return self._path / f"shard_{number:05d}.safetensors"

    def _examples(self, path: Path) -> int:
        """Returns how many examples a shard holds; refuses a shard with another mark."""
        try:
            with safe_open(path, framework="np") as file:
                mark = (file.metadata() or {}).get(MARK)
                count = file.get_slice("data").get_shape()[0]
        except (OSError, SafetensorError) as error:
            raise Refusal(path, "shard", f"cannot be read ({error})", "delete it; it is then written again") from error
        if mark != self._mark:
            raise Refusal(path, "output", "belongs to other examples, options or seed", ELSEWHERE)
        return count


SHARD_BYTES = 2**26
CHUNK = 16
"""Examples that a thread reads in one turn."""
MOST_BAD = 0.01
"""Share of the examples that may be left out because they cannot be read."""


@dataclass(frozen=True)
class ShardsRequest:
    """Request for shards, of as many examples as 64 MiB hold unless `shard_examples` are given."""

    source: Path
    out: Path
    reading: Reading
    seed: int = 0
    shard_examples: int | None = None
    standardise: bool = False
    workers: int = 1


def run(request: ShardsRequest, stopped: Callable[[], bool]) -> bool:
    """Writes the missing shards, and the index last; returns whether all is written, else the same request resumes.

    A ValueError about the examples removes the shards that were written; a full disk keeps them.
    """
    _check(request)
    scratch = next(parent for parent in request.out.absolute().parents if parent.is_dir())
    source = open_source(request.source, request.reading, scratch)
    conversion = _Conversion(request, source)
    if conversion.folder.index is None:
        conversion.check_capacity(scratch)
        try:
            if not conversion.write(stopped):
                return False
        except ValueError as error:
            if lies_in(error, request.source):  # a full disk is no reason to begin again
                conversion.folder.remove()
            raise
    conversion.tell()
    if source.caution is not None and not request.standardise:
        print(source.caution, file=sys.stderr)
    return True


def _check(request: ShardsRequest) -> None:
    check_least(
        ("--seed", request.seed, 0),
        ("--shard-examples", request.shard_examples, 1),
        ("--workers", request.workers, 1),
        ("--size", request.reading.size and min(request.reading.size), 1),
    )
    out, source = request.out.resolve(), request.source.resolve()
    if out == source or source in out.parents:
        raise ValueError(f"--out: {request.out} is inside the source {request.source}; give a folder elsewhere")
    if request.out.exists() and not request.out.is_dir():
        raise ValueError(f"--out: {request.out} is a file; give a folder")


class _Conversion:
    def __init__(self, request: ShardsRequest, source: Source) -> None:
        self.request, self.source = request, source
        item_bytes, numbers, seed = np.dtype(source.dtype).itemsize, source.shape_numbers, request.seed
        shapes = [source.shapes, source.dtype, source.num_classes, source.class_names]
        decides = [source.identity, shapes, seed, request.shard_examples or SHARD_BYTES, request.standardise]
        self.folder = ShardFolder(request.out, hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16])
        order = np.random.default_rng(seed).permutation(source.num_examples)
        self._bytes = self._bad = 0
        self._parts: list[tuple[tuple[int, ...], NDArray[np.int64]]] = []
        """The shape of the examples of each shard, and their numbers."""
        for number, shape in enumerate(source.shapes):
            own, example_bytes = order[numbers[order] == number], math.prod(shape) * item_bytes
            length = request.shard_examples or max(1, SHARD_BYTES // example_bytes)
            self._parts += [(shape, own[first : first + length]) for first in range(0, len(own), length)]
            self._bytes += example_bytes * len(own)

    def check_capacity(self, disk: Path) -> None:
        free, needed = shutil.disk_usage(disk).free, self._bytes - self.folder.size_bytes()
        if needed > free:
            sizes = f"needs {needed / 1e9:,.1f} GB where {free / 1e9:,.1f} GB are free"
            raise ValueError(f"--out: {self.request.out} {sizes}; give a folder on another disk, or a smaller --size")

    def write(self, stopped: Callable[[], bool]) -> bool:
        """Writes the missing shards and the index; returns whether all are there now."""
        kept, source = self.folder.kept, self.source
        moments: list[NDArray[np.float64]] = []
        written: dict[int, tuple[int, tuple[int, ...]]] = {}
        done = sum(len(part) for number, (_, part) in enumerate(self._parts) if number in kept)
        columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
        terminal = {"console": Terminal(stderr=True), "disable": not sys.stderr.isatty()}
        with _threads(self.request.workers) as threads, Progress(*columns, TimeRemainingColumn(), **terminal) as shown:
            task = shown.add_task(str(self.request.out), total=source.num_examples, completed=done)
            add = partial(shown.advance, task)
            for number, (shape, part) in enumerate(self._parts):
                if number in kept:
                    count = kept[number]
                    self._leave_out(len(part) - count)
                elif stopped():
                    return False
                else:
                    data, labels, examples = self._read(shape, part, threads, add)
                    count = len(data)
                    if count:
                        self.folder.write(number, data, labels if source.num_classes else None, examples)
                if count:
                    written[number] = count, shape
                    if self.request.standardise:
                        moments.append(moments_of(self.folder.data(number)))
        if not written:
            raise Refusal(self.request.source, "examples", "none can be read", "look at the lines above")
        shift, scale = statistics_of(moments) if self.request.standardise else (None, None)
        said = {name: getattr(source, name) for name in ("dtype", "num_classes", "class_names")}
        shape = largest([shape for _, shape in written.values()])
        self.folder.finish({**said, "shape": shape, "shift": shift, "scale": scale}, written)
        return True

    def tell(self) -> None:
        index, out = self.folder.index, self.request.out
        assert isinstance(index, ShardIndex)
        classes = "no classes"
        if index.num_classes:
            names = index.class_names
            classes = f"classes: {listed(names)}" if names else f"{index.num_classes} classes without names"
        held_out = max(1, index.num_examples // 10)
        shards = f"{len(index.shards)} shard{'s' * (len(index.shards) > 1)}"
        shapes = " and ".join(str(list(shape)) for shape in index.shapes)
        print(f"{out}: {index.num_examples} examples, {index.dtype} {shapes}, in {shards}; {classes}")
        print(f'train on them with "data={{kind: shards, path: {out}, held_out: {held_out}}}"')

    def _read(
        self, shape: tuple[int, ...], part: NDArray[np.int64], threads: ThreadPoolExecutor, add: Callable[[int], None]
    ) -> tuple[NDArray[np.generic], NDArray[np.int64], NDArray[np.int64]]:
        """Reads data, labels and numbers of the examples of a shard, without those that cannot be read."""
        data = np.empty((len(part), *shape), self.source.dtype)
        labels, examples = np.empty(len(part), np.int64), np.empty(len(part), np.int64)
        filled = 0
        chunks = [part[first : first + CHUNK].tolist() for first in range(0, len(part), CHUNK)]
        for rows in threads.map(self._rows, chunks):
            for example, row in rows:
                if isinstance(row, Unreadable):
                    print(f"{row}; it is left out", file=sys.stderr)
                    self._leave_out(1)
                else:
                    data[filled], labels[filled] = row
                    examples[filled] = example
                    filled += 1
            add(len(rows))
        return data[:filled], labels[:filled], examples[:filled]

    def _rows(self, numbers: list[int]) -> list[tuple[int, tuple[NDArray[np.generic], int] | Unreadable]]:
        rows = []
        for number in numbers:
            try:
                rows.append((number, self.source.row(number)))
            except Unreadable as error:
                rows.append((number, error))
        return rows

    def _leave_out(self, num: int) -> None:
        self._bad += num
        if self._bad > max(1, MOST_BAD * self.source.num_examples):
            problem = f"{self._bad} of {self.source.num_examples} cannot be read, the lines above say why"
            raise Refusal(self.request.source, "examples", problem, "mend or remove them")


@contextmanager
def _threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    threads = ThreadPoolExecutor(workers, thread_name_prefix="shards")
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)
