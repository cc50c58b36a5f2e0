"""The state of the parameters on disk: safetensors files, one a rank; nothing in them is ever unpickled.

state/
    index.json                   the format, and how many ranks have written
    rank_00000.safetensors ...   the rectangles that a rank wrote, by ``name:kind[offset]``; the shapes of the whole
                                 tensors are in its header

The first format, ``flowfabric.state/1``, listed the shape and the rectangles of every tensor in ``index.json``. It is
read as well.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moe.files import FileError, replacing
from moe.validation.document import parse_json
from trainer.checkpoint.manifest import REMEDY, FileRecord
from trainer.checkpoint.tensor_file import StoredTensor, read_header, read_values, write_tensors
from trainer.model.parallel.state import StatePiece

FORMAT, FIRST_FORMAT = "flowfabric.state/2", "flowfabric.state/1"
INDEX = "index.json"
_SHAPES = "shapes"
READING_THREADS = 16
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A part of a tensor in a file.

    Attributes:
        tensor: ``name:kind``.
        offset: of its first element in the tensor.
        file: that has it.
        stored: where it is in the file.
    """

    tensor: str
    offset: tuple[int, ...]
    file: Path
    stored: StoredTensor

    def copy_to(self, offset: Sequence[int], values: Tensor) -> int:
        """Copies what it has in common with another rectangle of the same tensor.

        Args:
            offset: of the other one.
            values: of the other one, which are overwritten.

        Returns:
            How many elements that is.
        """
        source, target = [], []
        for own, own_size, other, size in zip(self.offset, self.stored.shape, offset, values.shape, strict=True):
            first, end = max(own, other), min(own + own_size, other + size)
            if first >= end:
                return 0
            source.append(slice(first - own, end - own))
            target.append(slice(first - other, end - other))
        window = values[tuple(target)]
        window.copy_(read_values(self.file, self.stored)[tuple(source)])
        return window.numel()


def rank_path(folder: Path, rank: int) -> Path:
    """The file of one rank."""
    return folder / f"rank_{rank:05d}.safetensors"


def write_pieces(folder: Path, rank: int, pieces: Sequence[StatePiece]) -> FileRecord:
    """Writes the file of one rank, one piece after the other.

    Args:
        folder: which all ranks share.
        rank: that writes.
        pieces: which no other rank writes; may be none.
    """
    shapes = {piece.name: piece.shape for piece in pieces}
    return write_tensors(
        rank_path(folder, rank),
        {f"{tensor_of(piece)}[{','.join(map(str, piece.offset))}]": tuple(piece.tensor.shape) for piece in pieces},
        (piece.tensor for piece in pieces),
        {_SHAPES: json.dumps(shapes, separators=(",", ":"))},
    )


def write_index(folder: Path, num_ranks: int) -> None:
    """Says that a number of ranks have written all there is."""
    with replacing(folder / INDEX) as temporary:
        temporary.write_text(json.dumps({"format": FORMAT, "ranks": num_ranks}) + "\n")


@dataclass
class SavedTensor:
    """A tensor whose values are in several files.

    Attributes:
        name: of the parameter.
        shape: of the tensor.
        folder: that has the files.
        rectangles: that make it up.
    """

    name: str
    shape: tuple[int, ...]
    folder: Path
    rectangles: list[Rectangle] = field(default_factory=list)

    def values(self) -> Tensor:
        """Puts it together, on the CPU.

        Raises:
            FileError: a part of it is missing.
        """
        whole = torch.empty(self.shape)
        found = sum(rectangle.copy_to((0,) * len(self.shape), whole) for rectangle in self.rectangles)
        if found != whole.numel():
            raise FileError(self.folder, self.name, "is not whole", REMEDY)
        return whole


class SavedState:
    """What :func:`write_pieces` and :func:`write_index` wrote, or a program that knew the first format.

    Attributes:
        files: with the rectangles.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the index.

        Args:
            folder: that has it.

        Raises:
            FileError: the index is missing or malformed.
        """
        self._folder = folder
        path = folder / INDEX
        try:
            document = parse_json(path.read_text(encoding="utf-8"))
            self._shapes: dict[str, tuple[int, ...]] | None = None
            if document["format"] == FIRST_FORMAT:
                tensors: Mapping[str, Any] = document["tensors"]
                self._shapes = {parameter_of(name): _sizes(tensor["shape"]) for name, tensor in tensors.items()}
                named = {Path(chunk["file"]).name for tensor in tensors.values() for chunk in tensor["chunks"]}
                self.files = [folder / name for name in sorted(named)]
            elif document["format"] == FORMAT:
                num_ranks = int(document["ranks"])
                if num_ranks < 1 or not rank_path(folder, num_ranks - 1).exists():
                    raise ValueError(f"the last of {num_ranks} files is not there")
                self.files = [rank_path(folder, rank) for rank in range(num_ranks)]
            else:
                raise ValueError(f"its format is {document['format']}, not {FORMAT} or {FIRST_FORMAT}")
        except (OSError, *_MALFORMED) as error:
            raise FileError(path, "index", f"cannot be read ({error})", REMEDY) from error

    def read(self, file: Path, wanted: Callable[[str], bool]) -> tuple[dict[str, tuple[int, ...]], list[Rectangle]]:
        """What one of the files holds.

        Args:
            file: one of :attr:`files`.
            wanted: which tensors matter, by ``name:kind``.

        Returns:
            The shapes of the whole parameters by name, and the rectangles of the tensors that matter.

        Raises:
            FileError: the file is missing or malformed.
        """
        header = read_header(file)
        try:
            shapes = self._shapes
            if shapes is None:
                shapes = {name: _sizes(shape) for name, shape in json.loads(header.metadata[_SHAPES]).items()}
            rectangles = []
            for key, stored in header.tensors.items():
                tensor, _, offset = key.removesuffix("]").rpartition("[")
                if wanted(tensor):
                    rectangle = Rectangle(tensor, _sizes(offset.split(",") if offset else ()), file, stored)
                    _check_inside(rectangle, shapes[parameter_of(tensor)])
                    rectangles.append(rectangle)
        except _MALFORMED as error:
            raise FileError(file, "header", f"cannot be read ({error})", REMEDY) from error
        return shapes, rectangles

    def of_kind(self, kind: str) -> dict[str, SavedTensor]:
        """The tensors of a kind by the names of their parameters; no values are read yet.

        Raises:
            FileError: a file is missing or malformed.
        """
        found: dict[str, SavedTensor] = {}
        with ThreadPoolExecutor(READING_THREADS) as threads:
            for shapes, rectangles in threads.map(lambda file: self.read(file, of_kind(kind)), self.files):
                for rectangle in rectangles:
                    name = parameter_of(rectangle.tensor)
                    tensor = found.setdefault(name, SavedTensor(name, shapes[name], self._folder))
                    if tensor.shape != shapes[name]:
                        problem = f"has shape {shapes[name]} in {rectangle.file.name}, and {tensor.shape} elsewhere"
                        raise FileError(self._folder, name, problem, REMEDY)
                    tensor.rectangles.append(rectangle)
        return dict(sorted(found.items()))


def of_kind(kind: str) -> Callable[[str], bool]:
    """Whether a ``name:kind`` is of a kind."""
    ending = f":{kind}"
    return lambda tensor: tensor.endswith(ending)


def parameter_of(tensor: str) -> str:
    """The name in a ``name:kind``."""
    return tensor.rpartition(":")[0]


def tensor_of(piece: StatePiece) -> str:
    """The ``name:kind`` of a piece's tensor."""
    return f"{piece.name}:{piece.kind}"


def _sizes(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(map(int, values))


def _check_inside(rectangle: Rectangle, shape: tuple[int, ...]) -> None:
    edges = zip(rectangle.offset, rectangle.stored.shape, shape, strict=True)
    if any(first < 0 or first + size > whole for first, size, whole in edges):
        raise ValueError(f"a rectangle lies outside {rectangle.tensor}")
