"""Files of float32 tensors in the safetensors format, of which no more than one tensor is in memory at a time.

A file is the length of a header, the header in JSON, and the values. The format is that of Hugging Face's safetensors
library, which writes and reads files only whole: https://github.com/huggingface/safetensors, section "Format".
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.manifest import REMEDY, FileRecord

_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8
_ELEMENT_BYTES = 4
_MALFORMED = (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, struct.error)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Shape of a tensor, and offset of its values in the file."""

    shape: tuple[int, ...]
    first_byte: int

    def row(self, index: int) -> "StoredTensor":
        """The tensor at an index of the first dimension."""
        _, *shape = self.shape
        return StoredTensor(tuple(shape), self.first_byte + index * _ELEMENT_BYTES * math.prod(shape))


class MappedFile:
    """A file whose values are read from the disk as they are used; opened with the first of them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def values(self, stored: StoredTensor) -> NDArray[np.float32]:
        """The values of a tensor; refuses a file that is gone, or shorter than it was."""
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
    except _MALFORMED as error:
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
