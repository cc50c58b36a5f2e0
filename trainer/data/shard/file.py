"""Files of examples: which file holds an example of some number, and the arrays of shards, mapped into memory."""

import functools
import resource
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from netsim.foundation.arrays import UNREADABLE, quietly
from netsim.foundation.refusal import Refusal
from trainer.data.shard.index import REMEDY

T = TypeVar("T")

_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "U8": "uint8", "BOOL": "bool"}
_NAMES |= {f"{letter}{bits}": f"{word}int{bits}" for letter, word in (("I", ""), ("U", "u")) for bits in (16, 32, 64)}
_NAMES["I8"] = "int8"


@dataclass(frozen=True)
class Array:
    """An array in a file: its shape, numpy's name of its element type, and functions that read a row or the whole."""

    shape: tuple[int, ...]
    dtype: str
    row: Callable[[int], NDArray[Any]]
    whole: Callable[[], NDArray[Any]]

    @classmethod
    def of_slices(cls, values: Any) -> Self:
        """An array of a safetensors file."""
        dtype = _NAMES.get(values.get_dtype(), "of a type that numpy lacks")
        return cls(tuple(values.get_shape()), dtype, lambda number: values[number : number + 1][0], lambda: values[:])

    @classmethod
    def mapped(cls, values: NDArray[Any]) -> Self:
        return cls(values.shape, values.dtype.name, lambda number: np.array(values[number]), lambda: np.array(values))


class NumberedFiles(Generic[T]):
    """Examples numbered through several files. Any may be next, so files stay open, up to half of the process's limit.

    `ends` are int64 numbers of the first example after each file; `open` opens one by its number.
    """

    def __init__(self, counts: Iterable[int], opened: Callable[[int], T]) -> None:
        self.ends = np.cumsum([*counts])
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.open = functools.lru_cache(maxsize=max(most // 2, 1))(opened)

    def place(self, number: int) -> tuple[int, int]:
        """Returns the number of the file that holds an example, and the number of the example in that file."""
        file = int(np.searchsorted(self.ends, number, side="right"))
        return file, number - (int(self.ends[file - 1]) if file else 0)


def open_shard(path: Path) -> Mapping[str, Array]:
    """Arrays by key of a safetensors file, or of an uncompressed npz file; only the header is read."""
    with reading_arrays(path, "shard", absent=f"bring it back, or {REMEDY}", damaged=REMEDY):
        if path.suffix == ".npz":
            return {name: Array.mapped(values) for name, values in _mapped_arrays(path)}
        file = safe_open(path, framework="np")
        return {name: Array.of_slices(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118


def arrays_of(path: Path, keys: Iterable[str], remedy: str) -> Mapping[str, Array]:
    """Returns the arrays of a shard by key; refuses a shard that lacks any of `keys`; only the header is read."""
    arrays = open_shard(path)
    for key in keys:
        if key not in arrays:
            raise Refusal(path, key, f"is missing (there are {', '.join(arrays) or 'none'})", remedy)
    return arrays


def mapped_array(file: IO[bytes], name: str) -> NDArray[Any]:
    """Maps the npy array at the file's position into memory; the map outlives the open file.

    Raises a Refusal without a file name if the array holds Python objects, and one of
    `netsim.foundation.arrays.UNREADABLE` if it is damaged.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise Refusal("", "", f"{name} holds Python objects, which may run code", "save numbers alone")
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")  # pyright: ignore[reportArgumentType]


def member_array(file: IO[bytes], member: zipfile.ZipInfo, name: str) -> NDArray[Any]:
    """Maps an uncompressed member of an npz file into memory."""
    file.seek(member.header_offset + 26)  # at the lengths of the two fields before the content
    file.seek(int(np.frombuffer(file.read(4), dtype="<u2").sum()), 1)
    return mapped_array(file, name)


def _mapped_arrays(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                problem = f"{member.filename} is compressed, so that no row can be read alone"
                raise Refusal("", "", problem, "use numpy.savez")
            yield member.filename.removesuffix(".npy"), member_array(file, member, member.filename)


@contextmanager
def reading_arrays(path: Path, field: str, *, absent: str, damaged: str) -> Iterator[None]:
    """Turns errors of reading arrays in the block into Refusals of the file, with the remedy `absent` or `damaged`."""
    try:
        with quietly():
            yield
    except Refusal as error:
        if error.file:
            raise
        raise Refusal(path, field, f"cannot be read ({error.problem})", error.remedy) from error
    except OSError as error:
        raise Refusal(path, field, f"cannot be read ({error.strerror or str(error)})", absent) from error
    except (SafetensorError, *UNREADABLE) as error:
        raise Refusal(path, field, f"cannot be read ({' '.join(str(error).split())})", damaged) from error


def mapped_file(path: Path, field: str, remedy: str) -> NDArray[Any]:
    """Maps an npy file into memory; refuses one that is absent or damaged."""
    try:
        with quietly():
            return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, *UNREADABLE) as error:
        raise Refusal(path, field, f"cannot be read ({' '.join(str(error).split())})", remedy) from error
