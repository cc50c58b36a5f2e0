"""The moving averages for exchange: whole tensors, in one file or in parts that several ranks write."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from netsim.foundation.files import replacing
from trainer.checkpoint.manifest import FileRecord, records
from trainer.checkpoint.storage import SavedState, SavedTensor
from trainer.checkpoint.tensor_file import write_tensors
from trainer.checkpoint.writers import AVERAGE
from trainer.model.weight_files import WEIGHTS, index_of, part_of

PART_BYTES = 10**9
"""Of the values in one file, but for the size of one tensor."""


def number_of_parts(elements: int) -> int:
    """Into how many parts averages of so many elements are divided; some of them may stay empty."""
    return max(1, math.ceil(4 * elements / PART_BYTES))


def write_averages(folder: Path, elements: int, step: int, rank: int, num_ranks: int) -> dict[str, FileRecord]:
    """Writes this rank's part of the averages from the state that all ranks have written; records by name.

    The first part is that of rank 0, the others are spread over all ranks; most ranks of a large run write nothing.
    """
    num_parts = number_of_parts(elements)
    own = [part for part in range(num_parts) if part * num_ranks // num_parts % num_ranks == rank]
    if not own:
        return {}
    averages = SavedState(folder / "state").of_kind(AVERAGE)
    parts = divided(averages, num_parts)
    names = [WEIGHTS] if len(parts) == 1 else [part_of(WEIGHTS, number, len(parts)) for number in range(len(parts))]
    written = {}
    for part in own:
        if part < len(parts):
            tensors = {name: averages[name] for name in parts[part]}
            written[names[part]] = _write(folder / names[part], tensors, step)
    if rank == 0 and len(parts) > 1:
        path = index_of(folder / WEIGHTS)
        files = {name: file for file, part in zip(names, parts, strict=True) for name in part}
        with replacing(path) as temporary:
            index = {"metadata": {"total_size": 4 * elements}, "weight_map": files}
            temporary.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        written |= records(folder, [path])
    return written


def divided(tensors: Mapping[str, SavedTensor], num_parts: int) -> list[Sequence[str]]:
    """Divides tensors into parts of about as many elements, in their order; no part is empty."""
    parts: list[list[str]] = [[] for _ in range(num_parts)]
    sizes = {name: math.prod(tensor.shape) for name, tensor in tensors.items()}
    total, before = sum(sizes.values()), 0
    for name, size in sizes.items():
        parts[before * num_parts // total].append(name)
        before += size
    return [part for part in parts if part]


def _write(path: Path, tensors: Mapping[str, SavedTensor], step: int) -> FileRecord:
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return write_tensors(path, shapes, (tensor.values() for tensor in tensors.values()), {"step": str(step)})
