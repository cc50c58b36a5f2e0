"""Filling a run's pieces of the state of its parameters from what was saved, which may be divided in another way."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from netsim.foundation.refusal import Refusal
from trainer.checkpoint.manifest import REMEDY
from trainer.checkpoint.storage import SavedState, rank_path
from trainer.model.parallel.state import StatePiece


def fill(folder: Path, rank: int, pieces: Iterable[StatePiece]) -> None:
    """Overwrites the pieces of a state with what was saved.

    A rank whose own file has all of it, as that of a run that is divided as before, reads no other. Else it reads the
    other files, and of their values only those that it needs.
    """
    saved = SavedState(folder)
    wanted: dict[tuple[str, str], list[_Wanted]] = defaultdict(list)
    for piece in pieces:
        wanted[piece.name, piece.kind].append(_Wanted(piece, piece.tensor.numel()))
    everything = [one for of_tensor in wanted.values() for one in of_tensor]
    own = rank_path(folder, rank)
    if own in saved.files:
        _count(_copied(saved, own, wanted))
    if any(one.left for one in everything):
        for copied in saved.each(lambda file: _copied(saved, file, wanted) if file != own else []):
            _count(copied)
    for one in everything:
        if one.left:
            raise Refusal(folder, f"{one.piece.name}:{one.piece.kind}", "is missing or incomplete", REMEDY)


@dataclass
class _Wanted:
    """A piece, and how many of its elements have not been found yet."""

    piece: StatePiece
    left: int


def _copied(
    saved: SavedState, file: Path, wanted: Mapping[tuple[str, str], list[_Wanted]]
) -> list[tuple[_Wanted, int]]:
    """Copies what a file has of the pieces that are not complete, and says how many elements of each that is."""
    copied = []
    shapes, rectangles = saved.read(file, lambda name, kind: (name, kind) in wanted)
    for rectangle in rectangles:
        for one in wanted[rectangle.name, rectangle.kind]:
            saved_shape, shape = shapes[one.piece.name], one.piece.shape
            if saved_shape != shape:
                raise Refusal(
                    file, f"{rectangle.name}:{rectangle.kind}", f"has shape {saved_shape}, not {shape}", REMEDY
                )
            common = rectangle.common(one.piece.offset, one.piece.tensor.shape) if one.left else None
            if common is not None:
                window, values = common
                one.piece.tensor[window].copy_(torch.from_numpy(values))
                copied.append((one, values.size))
    return copied


def _count(copied: Iterable[tuple[_Wanted, int]]) -> None:
    for one, elements in copied:
        one.left -= elements
