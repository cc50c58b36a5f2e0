"""Resuming a run from a checkpoint, divided as it was saved or otherwise."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from netsim.foundation.refusal import Refusal
from trainer.checkpoint.contents import (
    Migrating,
    Resumable,
    Stateful,
    StatefulOptimizer,
    division_of,
    rank_file,
    set_rank_state,
    unpacked,
)
from trainer.checkpoint.manifest import REMEDY, Manifest
from trainer.checkpoint.storage import SavedState, rank_path
from trainer.checkpoint.writers import RankError, together
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.model.parallel.state import StatePiece
from trainer.model.values import load_routers


def fill(folder: Path, rank: int, pieces: Iterable[StatePiece]) -> None:
    """Overwrites the pieces of a state with the saved values.

    A rank whose own file has all values, as in a run that is divided as before, reads no other file. Else it reads the
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
    """A piece, and the number of its elements that have not been read yet."""

    piece: StatePiece
    left: int


def _copied(
    saved: SavedState, file: Path, wanted: Mapping[tuple[str, str], list[_Wanted]]
) -> list[tuple[_Wanted, int]]:
    """Copies the values in a file to the pieces that are not complete; returns the number of elements of each."""
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


def load_checkpoint(
    folder: Path,
    config: RunConfig,
    layout: Layout,
    engine: StatefulOptimizer,
    average: Stateful,
    migration: Migrating | None = None,
    shared: Mapping[str, Resumable] | None = None,
) -> None:
    """Resumes a run from an intact checkpoint of the same identity; collective.

    A run that is divided over its ranks as it was saved resumes bit for bit. One that is divided otherwise differs by
    rounding, and loses the state of single ranks, such as that of their random numbers; the first rank prints a note.

    If the run moves experts, `engine` has been built with the layout of
    :func:`trainer.checkpoint.contents.resumed_layout`. `shared` is that of
    :class:`trainer.checkpoint.saving.Checkpointer`.
    """
    manifest, rank = Manifest.read(folder), dist.get_rank()
    saved, wanted = manifest.division, division_of(config, layout)
    if saved != wanted and rank == 0:
        print(f"{folder}: {_redivided(saved, wanted)}", file=sys.stderr, flush=True)
    try:
        together(lambda: fill(folder / "state", rank, [*engine.state(), *average.state()]))
    except RankError as error:
        raise Refusal(folder / "state", "state", f"does not fit the run ({error})", REMEDY) from error
    engine.state_loaded(manifest.updates)
    load_routers(engine.module, folder)
    if shared:
        known = unpacked(folder / "shared.pt") if "shared.pt" in manifest.files else {}
        for name, part in shared.items():
            part.load(known.get(name))
    own = folder / rank_file(rank)
    set_rank_state(unpacked(own) if saved == wanted and own.exists() else {}, migration)


def _redivided(saved: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    keys = [key for key in {**saved, **wanted} if saved.get(key) != wanted.get(key)]
    changes = ", ".join(f"{key} {saved.get(key)} -> {wanted.get(key)}" for key in keys)
    return f"the saved state is divided anew ({changes})"
