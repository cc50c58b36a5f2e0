"""Division of a checkpoint among the ranks: which rank writes which pieces and which part of the averages."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from netsim.foundation.files import write_json
from trainer.checkpoint.manifest import FileRecord, records
from trainer.checkpoint.storage import SavedState, SavedTensor, write_tensors
from trainer.model.parallel.state import StatePiece
from trainer.model.weight_files import WEIGHTS, index_of, part_of

Result = TypeVar("Result")


class RankError(RuntimeError):
    """A function failed on one rank or on several; the message names the ranks."""


def together(act: Callable[[], Result], group: dist.ProcessGroup | None = None) -> list[Result]:
    """Calls a function on every rank; raises a RankError on all if it fails on any; collective.

    Args:
        act: function that each rank calls, not collective; its result is sent to all, so it should be small.
        group: of the ranks; None: all of them.

    Returns:
        Results by rank.
    """
    result, complaint = None, None
    try:
        result = act()
    except Exception as error:  # whatever it is, the other ranks must not wait for this one
        complaint = f"rank {dist.get_rank(group)}: {error}"
    answers: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(answers, (result, complaint), group=group)
    complaints = [complaint for _, complaint in answers if complaint is not None]
    if complaints:
        raise RankError("; ".join(complaints))
    return [result for result, _ in answers]


AVERAGE = "ema"
RECORD = np.dtype(
    [
        ("rectangle", "<u8", 2),  # hash of name, kinds, offset and sizes
        ("tensor", "<u8"),  # hash of name and kinds
        ("elements", "<i8"),  # of the rectangle
        ("whole", "<i8"),  # elements of the tensor
        ("kinds", "<i8"),  # tensors that are divided alike: how many
        ("average", "<i8"),  # 1: one of them is the moving average
    ]
)
"""What a rank says of a rectangle, of however many kinds of state."""


def share(pieces: Iterable[StatePiece], group: dist.ProcessGroup) -> tuple[list[StatePiece], int]:
    """Assigns each piece to one of the ranks that hold it, balancing bytes; `group`: all ranks, on the CPU; collective.

    Returns the pieces that only this rank writes, and the number of elements of all moving averages.
    """
    alike: dict[tuple[object, ...], list[StatePiece]] = defaultdict(list)
    for piece in pieces:
        alike[piece.name, piece.shape, piece.offset, tuple(piece.tensor.shape)].append(piece)
    records, ranks = _everyones(records_of(alike.values()), group)
    own = writes(records, ranks)[ranks == group.rank()]
    written = [piece for of_rectangle, mine in zip(alike.values(), own, strict=True) if mine for piece in of_rectangle]
    return written, check_complete(records)


def records_of(rectangles: Iterable[Sequence[StatePiece]]) -> NDArray[np.void]:
    """Records of rectangles, each given by its pieces of all kinds; [rectangles], of type `RECORD`."""
    rows = []
    for pieces in rectangles:
        first, kinds = pieces[0], [piece.kind for piece in pieces]
        tensor = hashlib.blake2b(f"{first.name}:{kinds}".encode(), digest_size=8)
        place = hashlib.blake2b(f"{first.name}:{kinds}{first.offset}{[*first.tensor.shape]}".encode(), digest_size=16)
        numbers = first.tensor.numel(), np.prod(first.shape, dtype=np.int64), len(kinds), AVERAGE in kinds
        rows.append((np.frombuffer(place.digest(), "<u8"), int.from_bytes(tensor.digest(), "little"), *numbers))
    return np.array(rows, RECORD)


def writes(records: NDArray[np.void], ranks: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a rank writes each rectangle that it holds: of the ranks that hold the same one, one does.

    Ranks that hold the same rectangles write equal amounts of them, up to the size of one rectangle. `records` and
    `ranks` are those of all ranks; none holds a rectangle twice.
    """
    order = np.lexsort((ranks, records["rectangle"][:, 1], records["rectangle"][:, 0]))
    sorted_records, sorted_ranks = records[order], ranks[order]
    firsts = _firsts(sorted_records["rectangle"])
    holders = np.diff(firsts, append=len(records))
    # Rectangles that the same ranks hold have the same sum of random numbers, one a rank.
    numbers = np.random.default_rng(0).integers(2**63, size=int(ranks.max()) + 1, dtype=np.uint64)
    held_by = np.add.reduceat(numbers[sorted_ranks], firsts)
    sizes = (sorted_records["elements"] * sorted_records["kinds"])[firsts].astype(np.float64)
    by_holders = np.argsort(held_by, kind="stable")
    first_of_set = _firsts(held_by[by_holders][:, None])
    in_set = np.repeat(first_of_set, np.diff(first_of_set, append=len(firsts)))
    ends = np.cumsum(sizes[by_holders])
    before = np.concatenate([[0.0], ends])
    totals = np.repeat(np.add.reduceat(sizes[by_holders], first_of_set), np.diff(first_of_set, append=len(firsts)))
    middle = ends - sizes[by_holders] / 2 - before[in_set]
    chosen = np.empty(len(firsts), np.int64)
    chosen[by_holders] = np.minimum(middle / totals * holders[by_holders], holders[by_holders] - 1)
    written = np.zeros(len(records), bool)
    written[order[firsts + chosen]] = True
    return written


def check_complete(records: NDArray[np.void]) -> int:
    """Checks that the rectangles of all ranks cover each element once; returns elements of all moving averages."""
    order = np.lexsort((records["rectangle"][:, 1], records["rectangle"][:, 0], records["tensor"]))
    ordered = records[order]
    once = ordered[_firsts(ordered["rectangle"])]
    tensors = _firsts(once["tensor"][:, None])
    elements = np.add.reduceat(once["elements"], tensors)
    assert (elements == once["whole"][tensors]).all(), "rectangles overlap or are missing"
    return int((once["whole"] * once["average"])[tensors].sum())


def _firsts(rows: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Indices of the rows [rows, numbers] that differ from the one before."""
    return np.flatnonzero(np.concatenate([[True], (rows[1:] != rows[:-1]).any(axis=1)])[: len(rows)])


def _everyones(records: NDArray[np.void], group: dist.ProcessGroup) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """Gathers the records of all ranks, and the rank of each record; collective."""
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(group.size())]
    dist.all_gather(counts, torch.tensor([len(records)]), group=group)
    most = max(int(count) for count in counts) * RECORD.itemsize
    padded = torch.zeros(most, dtype=torch.uint8)
    padded.numpy().view(RECORD)[: len(records)] = records
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded, group=group)
    parts = [row.numpy().view(RECORD)[: int(count)] for row, count in zip(gathered, counts, strict=True)]
    ranks = np.repeat(np.arange(group.size()), [int(count) for count in counts])
    return np.concatenate(parts), ranks


PART_BYTES = 10**9
"""Most bytes of values in one file, unless a single tensor is larger."""


def write_averages(folder: Path, elements: int, step: int, rank: int, num_ranks: int) -> dict[str, FileRecord]:
    """Writes this rank's part of the averages from the state that all ranks have written; records by name.

    The first part is that of rank 0, the others are spread over all ranks; most ranks of a large run write nothing.
    """
    num_parts = max(1, math.ceil(4 * elements / PART_BYTES))  # of which some may stay empty
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
        write_json(path, {"metadata": {"total_size": 4 * elements}, "weight_map": files})
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
