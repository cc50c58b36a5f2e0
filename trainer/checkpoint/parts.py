"""Weights written from one tensor after the other: one file, or parts of it beside an index."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from netsim.foundation.files import replacing
from trainer.checkpoint.tensor_file import write_tensors
from trainer.model.weight_files import index_of, part_of

PART_BYTES = 10**9
"""Of the values in one file, but for the size of one tensor."""


def write_in_parts(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[Tensor], dtype: torch.dtype = torch.float32
) -> list[Path]:
    """Writes weights, of which no more than one part is in memory at a time, and in float32 no more than one tensor.

    Returns the one file `path`, or the index and the parts, named after it. Each of `tensors`, in the order of
    `shapes`, is drawn from the iterable when the one before is written.
    """
    parts = _divided(shapes, dtype.itemsize)
    coming = iter(tensors)
    paths = (
        [path] if len(parts) == 1 else [path.with_name(part_of(path.name, i, len(parts))) for i in range(len(parts))]
    )
    for file, part in zip(paths, parts, strict=True):
        _write(file, part, islice(coming, len(part)), dtype)
    if len(parts) == 1:
        return paths
    size = sum(map(math.prod, shapes.values())) * dtype.itemsize
    weight_map = {name: file.name for file, part in zip(paths, parts, strict=True) for name in part}
    with replacing(index_of(path)) as temporary:
        document = {"metadata": {"total_size": size}, "weight_map": weight_map}
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return [index_of(path), *paths]


def _divided(shapes: Mapping[str, tuple[int, ...]], itemsize: int) -> list[dict[str, tuple[int, ...]]]:
    """Parts of some size each, in the order of the tensors; none is empty."""
    parts: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        added = math.prod(shape) * itemsize
        if parts[-1] and size + added > PART_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = shape
        size += added
    return parts


def _write(path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterator[Tensor], dtype: torch.dtype) -> None:
    metadata = {"format": "pt"}
    if dtype == torch.float32:
        write_tensors(path, shapes, tensors, metadata)
        return
    with replacing(path) as temporary:
        save_file({name: tensor.to(dtype) for name, tensor in zip(shapes, tensors, strict=True)}, temporary, metadata)
