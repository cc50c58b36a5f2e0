"""Which rank writes a rectangle of the state that several ranks hold.

Every rank sends a record of fixed size for each of its rectangles, and every rank draws the same conclusion from all of
them: nobody plans for the others, and what is sent does not depend on the length of names.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from trainer.model.parallel.state import StatePiece

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


@dataclass(frozen=True)
class Share:
    """The pieces that a rank, and no other, writes, and the elements of the moving averages of all parameters."""

    pieces: list[StatePiece]
    average_elements: int


def share(pieces: Iterable[StatePiece], group: dist.ProcessGroup) -> Share:
    """Divides pieces that several ranks hold among them, by bytes; `group`, on the CPU, has all ranks; collective."""
    alike: dict[tuple[object, ...], list[StatePiece]] = defaultdict(list)
    for piece in pieces:
        alike[piece.name, piece.shape, piece.offset, tuple(piece.tensor.shape)].append(piece)
    records, ranks = _everyones(records_of(alike.values()), group)
    own = writes(records, ranks)[ranks == group.rank()]
    written = [piece for of_rectangle, mine in zip(alike.values(), own, strict=True) if mine for piece in of_rectangle]
    return Share(written, check_complete(records))


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

    Ranks that hold the same rectangles write equally much of them, but for the size of one rectangle. `records` and
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
    found = np.add.reduceat(once["elements"], tensors)
    assert (found == once["whole"][tensors]).all(), "rectangles overlap or are missing"
    return int((once["whole"] * once["average"])[tensors].sum())


def _firsts(rows: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Indices of the rows [rows, numbers] that differ from the one before."""
    return np.flatnonzero(np.concatenate([[True], (rows[1:] != rows[:-1]).any(axis=1)])[: len(rows)])


def _everyones(records: NDArray[np.void], group: dist.ProcessGroup) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """The records of all ranks, and whose each is; collective."""
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
