"""Storage of tensors: safetensors files, and states whose tensors are in several."""

import gc
import hashlib
import json
import math
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netsim.foundation.documents import parse_json
from netsim.foundation.files import replacing, write_json
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.manifest import REMEDY, FileRecord
from trainer.model.parallel.state import StatePiece

_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8
_ELEMENT_BYTES = 4
_DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, struct.error)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Shape of a tensor, and offset of its values in the file."""

    shape: tuple[int, ...]
    first_byte: int

    def row(self, index: int) -> "StoredTensor":
        """Returns the part of the tensor at an index of the first dimension."""
        _, *shape = self.shape
        return StoredTensor(tuple(shape), self.first_byte + index * _ELEMENT_BYTES * math.prod(shape))


class MappedFile:
    """A file whose values are read from the disk as they are used; opened with the first of them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def values(self, stored: StoredTensor) -> NDArray[np.float32]:
        """Returns the values of a tensor; refuses a file that is missing or too short."""
        end = stored.first_byte + _ELEMENT_BYTES * math.prod(stored.shape)
        try:
            return self._content[stored.first_byte : end].view(np.float32).reshape(stored.shape)
        except (OSError, ValueError, RuntimeError) as error:
            raise Refusal(self.path, "values", f"cannot be read ({error})", REMEDY) from error

    @cached_property
    def _content(self) -> NDArray[np.uint8]:
        # By torch: numpy's mapping would keep the file open, and a process may not open one for each of many ranks.
        size = self.path.stat().st_size
        return torch.from_file(str(self.path), shared=False, size=size, dtype=torch.uint8).numpy()


@dataclass(frozen=True)
class Header:
    """Tensors of a file by name, and further texts by key."""

    file: MappedFile
    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]


def write_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[Tensor], metadata: Mapping[str, str]
) -> FileRecord:
    """Writes a file, and computes its checksum on the way.

    Args:
        tensors: float32, on any device, in the order of the shapes, whole or in pieces of consecutive elements; each is
            drawn from the iterable when the one before is written.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        first, end = end, end + _ELEMENT_BYTES * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [first, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    digest, coming = hashlib.sha256(), iter(tensors)
    with replacing(path) as temporary, temporary.open("wb") as file:

        def write(content: bytes | memoryview) -> None:
            digest.update(content)
            file.write(content)

        write(_LENGTH.pack(len(text)))
        write(text)
        left = 0
        for shape in shapes.values():
            left += math.prod(shape)
            while left > 0:
                values = _values(next(coming))
                left -= len(values)
                write(values)
                del values
            assert left == 0
    return FileRecord(_LENGTH.size + len(text) + end, digest.hexdigest())


def read_header(path: Path) -> Header:
    """Reads the header of a file, but none of the values; refuses other values than float32."""
    try:
        with path.open("rb") as file:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            size = path.stat().st_size
            if length > size:
                raise ValueError(f"a header of {length} bytes in {size}")
            document = json.loads(file.read(length))
        first = _LENGTH.size + length
        metadata = document.pop("__metadata__", {})
        tensors = {name: _stored(name, entry, first, size) for name, entry in document.items()}
        return Header(MappedFile(path), tensors, {str(key): str(text) for key, text in metadata.items()})
    except _DAMAGED as error:
        raise Refusal(path, "header", f"cannot be read ({error})", REMEDY) from error


def _values(tensor: Tensor) -> memoryview:
    assert tensor.dtype == torch.float32
    return tensor.detach().cpu().contiguous().numpy().reshape(-1).data


def _stored(name: str, entry: Mapping[str, Any], first: int, size: int) -> StoredTensor:
    begin, end = map(int, entry["data_offsets"])
    shape = tuple(map(int, entry["shape"]))
    if entry["dtype"] != "F32" or end - begin != _ELEMENT_BYTES * math.prod(shape):
        raise ValueError(f"{name} is not a float32 tensor")
    if min(begin, *shape, 0) < 0 or first + end > size:
        raise ValueError(f"{name} lies outside the file")
    return StoredTensor(shape, first + begin)


FORMAT, FIRST_FORMAT = "flowfabric.state/2", "flowfabric.state/1"
INDEX = "index.json"
_SHAPES = "shapes"
_READING_THREADS = 16
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


Read = TypeVar("Read")
Values = NDArray[np.float32]
Wanted = Callable[[str, str], bool]
"""Whether the tensor of a parameter's name and a kind matters."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A part of a tensor, which begins at `offset` in it, in a file; `kind` as `StatePiece` has it."""

    name: str
    kind: str
    offset: tuple[int, ...]
    file: MappedFile
    stored: StoredTensor

    def common(
        self, offset: Sequence[int], sizes: Sequence[int]
    ) -> tuple[tuple[slice, ...], NDArray[np.float32]] | None:
        """Overlap with another rectangle of the same tensor: its place in the other, and its values; None if absent."""
        source, target = [], []
        for own, own_size, other, size in zip(self.offset, self.stored.shape, offset, sizes, strict=True):
            first, end = max(own, other), min(own + own_size, other + size)
            if first >= end:
                return None
            source.append(slice(first - own, end - own))
            target.append(slice(first - other, end - other))
        return tuple(target), self.file.values(self.stored)[(*source, ...)]


def rank_path(folder: Path, rank: int) -> Path:
    """The file of one rank."""
    return folder / f"rank_{rank:05d}.safetensors"


def write_pieces(folder: Path, rank: int, pieces: Sequence[StatePiece]) -> FileRecord:
    """Writes the file of one rank, one piece after the other; the pieces, maybe none, are written by no other rank."""
    alike: dict[tuple[object, ...], list[StatePiece]] = defaultdict(list)
    for piece in pieces:
        alike[piece.name, piece.offset, piece.tensor.shape].append(piece)
    stacks = {_key(stack): (len(stack), *stack[0].tensor.shape) for stack in alike.values()}
    tensors = (piece.tensor for stack in alike.values() for piece in stack)
    shapes = json.dumps({piece.name: piece.shape for piece in pieces}, separators=(",", ":"))
    return write_tensors(rank_path(folder, rank), stacks, tensors, {_SHAPES: shapes})


def write_index(folder: Path, num_ranks: int) -> None:
    """Writes the index: the format, and the number of ranks that have written files."""
    write_json(folder / INDEX, {"format": FORMAT, "ranks": num_ranks}, indent=None)


@dataclass
class SavedTensor:
    """A tensor whose values are in several files."""

    name: str
    shape: tuple[int, ...]
    folder: Path
    rectangles: list[Rectangle] = field(default_factory=list)

    def values(self) -> Tensor:
        """Assembles the tensor from its parts, on the CPU; refuses if one is missing."""
        whole, num_read, start = np.empty(self.shape, np.float32), 0, (0,) * len(self.shape)
        for rectangle in self.rectangles:
            common = rectangle.common(start, self.shape)
            if common is not None:
                window, values = common
                whole[window] = values
                num_read += values.size
        if num_read != whole.size:
            raise Refusal(self.folder, self.name, "is incomplete", REMEDY)
        return torch.from_numpy(whole)


class SavedState:
    """A saved state, written by :func:`write_pieces` and :func:`write_index`, or in the first version of the format."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / INDEX
        try:
            document = parse_json(path.read_text(encoding="utf-8"))
            self._shapes: dict[str, tuple[int, ...]] | None = None
            if document["format"] == FIRST_FORMAT:
                tensors: Mapping[str, Any] = document["tensors"]
                self._shapes = {key.rpartition(":")[0]: _sizes(tensor["shape"]) for key, tensor in tensors.items()}
                named = {Path(chunk["file"]).name for tensor in tensors.values() for chunk in tensor["chunks"]}
                self.files = [folder / name for name in sorted(named)]
            elif document["format"] == FORMAT:
                num_ranks = int(document["ranks"])
                if num_ranks < 1 or not rank_path(folder, num_ranks - 1).exists():
                    raise ValueError(f"the last of {num_ranks} files is missing")
                self.files = [rank_path(folder, rank) for rank in range(num_ranks)]
            else:
                raise ValueError(f"its format is {document['format']}, not {FORMAT} or {FIRST_FORMAT}")
        except (OSError, *_MALFORMED) as error:
            raise Refusal(path, "index", f"cannot be read ({error})", REMEDY) from error

    def read(self, file: Path, wanted: Wanted) -> tuple[dict[str, tuple[int, ...]], list[Rectangle]]:
        """Shapes of the whole parameters in one of the files, by name, and the rectangles of the tensors wanted."""
        header, rectangles = read_header(file), []
        try:
            shapes = self._shapes
            if shapes is None:
                shapes = {name: _sizes(shape) for name, shape in json.loads(header.metadata[_SHAPES]).items()}
            for key, stack in header.tensors.items():
                tensor, _, place = key.removesuffix("]").rpartition("[")
                name, _, kinds = tensor.rpartition(":")
                listed = kinds.split(",")
                stacked = self._shapes is None
                if stacked and len(listed) != stack.shape[0]:
                    raise ValueError(f"{key} has {stack.shape[0]} kinds")
                offset = _sizes(place.split(",")) if place else ()
                for index, kind in enumerate(listed):
                    if wanted(name, kind):
                        stored = stack.row(index) if stacked else stack
                        _check_inside(key, offset, stored.shape, shapes[name])
                        rectangles.append(Rectangle(name, kind, offset, header.file, stored))
        except _MALFORMED as error:
            raise Refusal(file, "header", f"cannot be read ({error})", REMEDY) from error
        return shapes, rectangles

    def of_kind(self, kind: str) -> dict[str, SavedTensor]:
        """The tensors of a kind by the names of their parameters; no values are read yet."""
        tensors: dict[str, SavedTensor] = {}
        for shapes, rectangles in self.each(lambda file: self.read(file, lambda _, own: own == kind)):
            for one in rectangles:
                tensor = tensors.setdefault(one.name, SavedTensor(one.name, shapes[one.name], self._folder))
                if tensor.shape != shapes[one.name]:
                    problem = f"has shape {shapes[one.name]} in {one.file.path.name}, and {tensor.shape} elsewhere"
                    raise Refusal(self._folder, one.name, problem, REMEDY)
                tensor.rectangles.append(one)
        return dict(sorted(tensors.items()))

    def each(self, read: Callable[[Path], Read]) -> Iterator[Read]:
        """Yields the result of `read` for every file; several files are read at a time."""
        searches = gc.isenabled()
        gc.disable()  # millions of objects are made that all live: to search them for circles costs more than they do
        try:
            with ThreadPoolExecutor(_READING_THREADS) as threads:
                yield from threads.map(read, self.files)
        finally:
            if searches:
                gc.enable()


def _key(stack: Sequence[StatePiece]) -> str:
    first, kinds = stack[0], ",".join(piece.kind for piece in stack)
    return f"{first.name}:{kinds}[{','.join(map(str, first.offset))}]"


def _sizes(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(map(int, values))


def _check_inside(key: str, offset: Sequence[int], sizes: Sequence[int], shape: Sequence[int]) -> None:
    for first, size, whole in zip(offset, sizes, shape, strict=True):
        if first < 0 or first + size > whole:
            raise ValueError(f"{key} lies outside its tensor")
