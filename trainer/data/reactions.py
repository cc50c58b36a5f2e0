"""Transition states of reactions between two known ends: positions of atoms, from those that ship or from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from moe.seeds import derive_seed, fold_in
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.files import DataFiles, found_once
from trainer.data.protocol import Batch, Listed
from trainer.data.reaction_files import Reactions, read_reactions

ENDS = 6
"""Channels of a context before those of the species: positions of the reactant, then of the product."""
OTHERS = ENDS + 1
"""Channels of a context that are no species: the ends, and at last whether an atom is free."""

HOPS = Path(__file__).with_name("hops.npz")
"""The reactions that ship."""


class ReactionsConfig(Section):
    """Transition states in angstrom: an example has the positions of its N atoms, [3, 1, N].

    Beside it are those of reactant and product, the species one-hot, and whether an atom is free, [7 + S, 1, N].
    """

    kind: Literal["reactions"]
    path: Path | None = None
    """An .npz with positions [M, 3, N, 3] (reactant, transition state, product), numbers [M, N] and free [M, N], or an
    extended XYZ file of such triples; null: those that ship, in which an adatom on a metal surface hops to the next
    hollow and two atoms of the bridge give way."""
    held_out: PositiveInt
    """Reactions that are kept out of training, the last of a shuffle."""
    split: NonNegativeInt = 0
    """Seed of that shuffle."""
    swap: bool = True
    """Exchange reactant and product of half of the examples in training, anew each time."""
    atoms: PositiveInt
    """Of an example; left out: of the largest in the file, and smaller ones are filled up."""
    species: tuple[PositiveInt, ...]
    """Atomic numbers of the species; left out: those of the file."""

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        """Fills in what the file says, and refuses what is no set of reactions."""
        path = document.get("path")
        if not isinstance(path, str | Path | None):
            return document
        file = HOPS if path is None else Path(path)
        try:
            facts = found_once(str(file), lambda: _examined(file))
        except Refusal as error:
            raise ValueError(f"path: {error}") from error
        held_out, total = document.get("held_out"), facts["total"]
        if isinstance(held_out, int) and held_out >= total:
            raise ValueError(f"held_out: {held_out} leaves none of the {total} reactions; use {total - 1} or less")
        return {"atoms": facts["atoms"], "species": facts["species"], **document}

    @model_validator(mode="after")
    def _species_differ(self) -> ReactionsConfig:
        if not self.species or len(set(self.species)) < len(self.species):
            raise ValueError(f"species: {list(self.species)} is no list of different atomic numbers; leave it out")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, 1, self.atoms

    @property
    def context_shape(self) -> tuple[int, int, int]:
        """Reactant, product, species and whether an atom is free."""
        return OTHERS + len(self.species), 1, self.atoms

    @property
    def num_classes(self) -> int:
        return 0

    @property
    def class_names(self) -> tuple[str, ...]:
        return ()

    def open(self) -> ReactionSet:
        return ReactionSet(self)


class ReactionSet(Listed):
    """Transition states float32 [3, 1, N] between ends that their contexts hold."""

    num_classes = 0

    def __init__(self, config: ReactionsConfig) -> None:
        file = config.path or HOPS
        found = read_reactions(file)
        _check_fits(file, found, config)
        missing = config.atoms - found.positions.shape[2]
        positions = torch.nn.functional.pad(torch.from_numpy(found.positions), (0, 0, 0, missing))
        numbers = torch.nn.functional.pad(torch.from_numpy(found.numbers).long(), (0, missing))
        free = torch.nn.functional.pad(torch.from_numpy(found.free), (0, missing))
        by_channel = positions.transpose(2, 3)[:, :, :, None]  # [M, 3 positions, 3, 1, N]
        one_hot = numbers[:, None, None] == torch.tensor(config.species)[:, None, None]
        self._states = by_channel[:, 1]
        self._contexts = torch.cat(
            [by_channel[:, 0], by_channel[:, 2], one_hot.float(), free[:, None, None].float()], dim=1
        )
        self._seed = config.swap, derive_seed(0, "swapped ends")
        self.shape = config.shape
        self.files = () if config.path is None else (DataFiles(config.path.parent, [config.path.name]),)
        shuffled = torch.randperm(len(positions), generator=torch.Generator().manual_seed(config.split))
        self.splits = {"train": shuffled[: -config.held_out], "held_out": shuffled[-config.held_out :]}

    def get(self, indices: Tensor) -> Batch:
        return Batch(self._states[indices], None, indices, context=self._contexts[indices])

    def augmented(self, batch: Batch, positions: Tensor, *, seed: int) -> Batch:
        swaps, number = self._seed
        if not swaps or batch.context is None:
            return batch
        keys = fold_in(fold_in(torch.tensor(seed), torch.tensor(number)), positions)
        return replace(
            batch, context=torch.where((keys & 1).bool()[:, None, None, None], swapped(batch.context), batch.context)
        )


def swapped(context: Tensor) -> Tensor:
    """Contexts [B, 7 + S, 1, N] of the reactions backwards."""
    return torch.cat([context[:, 3:ENDS], context[:, :3], context[:, ENDS:]], dim=1)


def _check_fits(file: Path, found: Reactions, config: ReactionsConfig) -> None:
    back = "bring the file back that the run began with"
    atoms, species = found.positions.shape[2], found.species
    if atoms > config.atoms:
        raise Refusal(file, "positions", f"have {atoms} atoms, where the run has {config.atoms}", back)
    if odd := sorted(set(species) - set(config.species)):
        problem = f"hold atoms of the number {odd[0]}, where the run has {list(config.species)}"
        raise Refusal(file, "numbers", problem, back)
    if len(found.positions) <= config.held_out:
        raise Refusal(file, "positions", f"are of {len(found.positions)} reactions, and so many are held out", back)


def _examined(file: Path) -> dict[str, Any]:
    found = read_reactions(file)
    return {"atoms": found.positions.shape[2], "species": list(found.species), "total": len(found.positions)}
