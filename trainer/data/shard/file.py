"""Arrays in shards: safetensors or npz files, mapped into memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from netsim.foundation.arrays import UNREADABLE, quietly
from netsim.foundation.refusal import Refusal
from trainer.data.shard.index import REMEDY, ShardIndex

_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "U8": "uint8", "BOOL": "bool"}
_NAMES |= {f"{letter}{bits}": f"{word}int{bits}" for letter, word in (("I", ""), ("U", "u")) for bits in (16, 32, 64)}
_NAMES["I8"] = "int8"


class Array(Protocol):
    """An array in a file: shape of the whole array, and numpy's name of its elements' type."""

    shape: tuple[int, ...]
    dtype: str

    def row(self, number: int) -> NDArray[Any]:
        """Reads one row."""
        ...


class UnusableError(Exception):
    """An array that is whole and cannot be used as it was saved."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


class _Slices(Array):
    """An array of a safetensors file."""

    def __init__(self, values: Any) -> None:
        self._values = values
        self.shape: tuple[int, ...] = tuple(values.get_shape())
        self.dtype: str = _NAMES.get(values.get_dtype(), "of a type that numpy lacks")

    def row(self, number: int) -> NDArray[Any]:
        return self._values[number : number + 1][0]


class _Mapped(Array):
    """An uncompressed array of an npz file, mapped into memory."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values
        self.shape, self.dtype = values.shape, values.dtype.name

    def row(self, number: int) -> NDArray[Any]:
        return np.array(self._values[number])


def open_shard(path: Path) -> Mapping[str, Array]:
    """Arrays by key of a safetensors file, or of an uncompressed npz file; only the header is read."""
    with _named(path), quietly():
        if path.suffix == ".npz":
            return {name: _Mapped(values) for name, values in _mapped_arrays(path)}
        file = safe_open(path, framework="np")
        return {name: _Slices(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118


def check_shard(folder: Path, number: int, index: ShardIndex) -> None:
    """Refuses a shard that is not what the index says, without reading its rows."""
    entry = index.shards[number]
    path = folder / entry.file
    arrays = open_shard(path)
    for key in ("data", *(("labels",) if index.num_classes else ())):
        if key not in arrays:
            raise Refusal(path, key, f"is missing (there are {', '.join(arrays) or 'none'})", REMEDY)
    shape, wanted = arrays["data"].shape, (entry.num_examples, *(entry.shape or index.shape))
    if shape != wanted:
        raise Refusal(path, "data", f"has shape {shape} but the index says {wanted}", REMEDY)
    if arrays["data"].dtype != index.dtype:
        raise Refusal(path, "data", f"is {arrays['data'].dtype} but the index says {index.dtype}", REMEDY)
    if index.num_classes:
        labels = arrays["labels"]
        if labels.shape != (entry.num_examples,):
            raise Refusal(path, "labels", f"has shape {labels.shape}, not {(entry.num_examples,)}", REMEDY)
        if "int" not in labels.dtype:
            raise Refusal(path, "labels", f"is {labels.dtype}, which cannot be a count", f"use int64: {REMEDY}")


def mapped_array(file: IO[bytes], name: str) -> NDArray[Any]:
    """Maps the npy array at the file's position into memory; it outlives the open file.

    Raises UnusableError on Python objects, and on damage one of `netsim.foundation.arrays.UNREADABLE`.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise UnusableError(f"{name} holds Python objects, which may run code", "save numbers alone")
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")  # pyright: ignore[reportArgumentType]


def _mapped_arrays(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                problem = f"{member.filename} is compressed, so that no row can be read alone"
                raise UnusableError(problem, "use numpy.savez")
            file.seek(member.header_offset + 26)
            lengths = np.frombuffer(file.read(4), dtype="<u2")
            file.seek(int(lengths.sum()), 1)
            yield member.filename.removesuffix(".npy"), mapped_array(file, member.filename)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise Refusal(path, "shard", f"cannot be read ({reason})", f"bring it back, or {REMEDY}") from error
    except UnusableError as error:
        raise Refusal(path, "shard", f"cannot be read ({error.problem})", error.remedy) from error
    except (SafetensorError, *UNREADABLE) as error:
        problem = " ".join(str(error).split())
        raise Refusal(path, "shard", f"cannot be read ({problem})", REMEDY) from error
