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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moe.files import FileError, replacing
from trainer.checkpoint.manifest import REMEDY, FileRecord

_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8
_ELEMENT_BYTES = 4
_MALFORMED = (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, struct.error)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where the values of a tensor are.

    Attributes:
        shape: of the tensor.
        first_byte: of its values in the file.
    """

    shape: tuple[int, ...]
    first_byte: int


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        tensors: by name.
        metadata: further texts by key.
    """

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]


def write_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[Tensor], metadata: Mapping[str, str]
) -> FileRecord:
    """Writes a file, and computes its checksum on the way.

    Args:
        path: of the file.
        shapes: of the tensors by name.
        tensors: float32, on any device, in the order of the shapes; each is asked for when the one before is written.
        metadata: texts by key.

    Returns:
        Length and checksum of what was written.

    Raises:
        FileError: the file cannot be written.
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
        for shape in shapes.values():
            write(_values(next(coming), shape))
    return FileRecord(_LENGTH.size + len(text) + end, digest.hexdigest())


def read_header(path: Path) -> Header:
    """Reads what a file holds, but none of the values.

    Raises:
        FileError: the file is missing or malformed, or holds other values than float32.
    """
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
        return Header(tensors, {str(key): str(text) for key, text in metadata.items()})
    except _MALFORMED as error:
        raise FileError(path, "header", f"cannot be read ({error})", REMEDY) from error


def read_values(path: Path, stored: StoredTensor) -> Tensor:
    """The values of a tensor of a file, which are read from the disk as they are used.

    Raises:
        FileError: the file is not there any more.
    """
    try:
        values = np.memmap(path, "<f4", "c", stored.first_byte, stored.shape)
    except (OSError, ValueError) as error:
        raise FileError(path, "values", f"cannot be read ({error})", REMEDY) from error
    return torch.from_numpy(values)


def _values(tensor: Tensor, shape: tuple[int, ...]) -> memoryview:
    assert tensor.shape == shape
    assert tensor.dtype == torch.float32
    return tensor.detach().cpu().contiguous().numpy().reshape(-1).data


def _stored(name: str, entry: Mapping[str, Any], first: int, size: int) -> StoredTensor:
    begin, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(length) for length in entry["shape"])
    if entry["dtype"] != "F32" or end - begin != _ELEMENT_BYTES * math.prod(shape):
        raise ValueError(f"{name} is no tensor of float32")
    if min(begin, *shape, 0) < 0 or first + end > size:
        raise ValueError(f"{name} lies outside the file")
    return StoredTensor(shape, first + begin)
