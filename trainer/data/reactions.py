"""Transition states of reactions between two known ends, as positions of atoms: built-in reactions, or a file."""

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from moe.seeds import derive_seed, fold_in
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.files import DataFiles, facts_of, text_lines
from trainer.data.protocol import Batch, Listed

PLACES = ("reactant", "transition state", "product")
ARRAYS = ("positions", "numbers", "free")
STILL = 1e-3
"""Most angstrom by which an atom that is not free may move between the three structures."""
_IN_ORDER = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr "
    "Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir "
    "Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh "
    "Fl Mc Lv Ts Og"
)
SYMBOLS: list[str] = list(_IN_ORDER.split())
"""Symbols of the elements 1, 2, ..."""


@dataclass(frozen=True)
class Reactions:
    """M reactions of at most N atoms."""

    positions: NDArray[np.float32]
    """[M, 3, N, 3] of reactant, transition state and product in angstrom, in one order of atoms."""
    numbers: NDArray[np.int64]
    """[M, N] atomic numbers; 0 where a reaction has fewer atoms, whose positions are then 0."""
    free: NDArray[np.bool_]
    """[M, N]; the others stay where they are."""

    @property
    def species(self) -> tuple[int, ...]:
        return tuple(int(number) for number in np.unique(self.numbers) if number)

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]]:
        return zip(self.positions, self.numbers, self.free, strict=True)


def read_reactions(file: Path) -> Reactions:
    """Reads and checks a file; a Refusal names the fault.

    Reactants are centred on the origin. If all atoms of a reaction are free, its other two structures are turned and
    shifted onto the reactant.
    """
    reactions = _npz(file) if file.suffix == ".npz" else _xyz(file)
    for number, (positions, numbers, free) in enumerate(reactions, 1):
        name, present = f"reaction {number}", numbers > 0
        if not np.isfinite(positions).all():
            raise Refusal(file, name, "has positions that are not finite", "leave the reaction out")
        if not present.any() or (numbers < 0).any() or (numbers > len(SYMBOLS)).any():
            problem = f"has atoms without a species (numbers {numbers.min()} to {numbers.max()})"
            raise Refusal(file, name, problem, f"give atomic numbers from 1 to {len(SYMBOLS)}")
        if positions[:, ~present].any() or free[~present].any():
            problem = "has atoms with a position and without a species"
            raise Refusal(file, name, problem, "give their atomic numbers, or zeros for what is filled up")
        if not free.any():
            raise Refusal(file, name, "has no free atom", "free those that move")
        moved = np.abs(positions[:, ~free] - positions[:1, ~free]).max(initial=0)
        if moved > STILL:
            problem = f"has an atom that is not free and moves by {moved:.3f} angstrom"
            raise Refusal(file, name, problem, "free it, or correct its positions")
        positions[:, ~free] = positions[:1, ~free]
        positions[:, present] -= positions[0, present].mean(0)
        if free[present].all():
            for place in (1, 2):
                positions[place, present] = laid_upon(positions[place, present], positions[0, present])
    return reactions


def laid_upon(
    moved: NDArray[np.floating], fixed: NDArray[np.floating], *, mirror: bool = False
) -> NDArray[np.floating]:
    """Turns and shifts positions [N, 3] to the least squared distance from `fixed`; `mirror` allows a mirror image.

    Kabsch, 1976, in float64.
    """
    a, b = moved.astype(np.float64), fixed.astype(np.float64)
    middle = b.mean(0)
    a, b = a - a.mean(0), b - middle
    u, _, v = np.linalg.svd(a.T @ b)
    signs = np.ones(3)
    if not mirror:
        signs[2] = np.sign(np.linalg.det(u) * np.linalg.det(v))
    return (a @ (u * signs) @ v + middle).astype(moved.dtype)


def _npz(file: Path) -> Reactions:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            reactions = {name: np.asarray(arrays[name]) for name in ARRAYS if name in arrays}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or "it is no archive of NumPy"
        raise Refusal(file, "file", f"cannot be read ({reason})", "correct data.path") from None
    if missing := [name for name in ARRAYS if name not in reactions]:
        raise Refusal(file, missing[0], "is not in the file", f"write {', '.join(ARRAYS)}")
    positions, numbers, free = (reactions[name] for name in ARRAYS)
    fits = positions.ndim == 4 and positions.shape[1::2] == (3, 3) and len(positions) > 0
    if not fits or not np.issubdtype(positions.dtype, np.floating):
        problem = f"is {positions.dtype} {list(positions.shape)}"
        raise Refusal(file, "positions", problem, "give floats [M, 3, N, 3] of reactant, transition state and product")
    for name, values, kind in (("numbers", numbers, np.integer), ("free", free, np.bool_)):
        if values.shape != positions.shape[::2] or not np.issubdtype(values.dtype, kind):
            problem = f"is {values.dtype} {list(values.shape)}, beside positions {list(positions.shape)}"
            raise Refusal(file, name, problem, f"give {kind.__name__} {list(positions.shape[::2])}")
    return Reactions(positions.astype(np.float32), numbers.astype(np.int64), free.copy())


Frame = tuple[int, NDArray[np.float64], list[str], NDArray[np.bool_]]
"""A structure: number of its first line in the file, positions [N, 3], symbols [N], and which atoms are free [N]."""


def _xyz(file: Path) -> Reactions:
    frames = list(_frames(file))
    if not frames or len(frames) % 3:
        problem = f"has {len(frames)} structures, which are no triples"
        raise Refusal(file, "structures", problem, "give reactant, transition state and product of each reaction")
    triples = [frames[first : first + 3] for first in range(0, len(frames), 3)]
    size = max(len(symbols) for _, _, symbols, _ in frames)
    positions = np.zeros((len(triples), 3, size, 3), np.float32)
    numbers, free = np.zeros((len(triples), size), np.int64), np.zeros((len(triples), size), np.bool_)
    for row, triple in enumerate(triples):
        _, _, symbols, moves = triple[0]
        for place, (line, reactions, others, others_move) in enumerate(triple):
            if others != symbols or not np.array_equal(moves, others_move):
                what = "atoms that are free" if others == symbols else "atoms or order of atoms"
                problem = f"({PLACES[place]}) has other {what} than the reactant at line {triple[0][0]}"
                raise Refusal(file, f"line {line}", problem, "give the three the same atoms in one order")
            positions[row, place, : len(others)] = reactions
        numbers[row, : len(symbols)] = [SYMBOLS.index(symbol) + 1 for symbol in symbols]
        free[row, : len(symbols)] = moves
    return Reactions(positions, numbers, free)


def _frames(file: Path) -> Iterator[Frame]:
    lines, place = text_lines(file), 0
    while place < len(lines):
        count = lines[place].strip()
        if not count:
            place += 1
            continue
        if not count.isdecimal() or place + 1 + int(count) >= len(lines) or int(count) == 0:
            problem = f"has {count[:20]!r}, which is no number of atoms that follow"
            raise Refusal(file, f"line {place + 1}", problem, "give extended XYZ")
        columns = _columns(lines[place + 1])
        rows = [_atom(file, place + 3 + row, lines[place + 2 + row], columns) for row in range(int(count))]
        symbols, reactions, moves = zip(*rows, strict=True)
        yield place + 1, np.array(reactions), list(symbols), np.array(moves)
        place += 2 + int(count)


def _columns(comment: str) -> dict[str, int]:
    """The first column of each property of the atoms, by name."""
    written = re.search(r"Properties=(\S+)", comment)
    if written is None:
        return {"species": 0, "pos": 1}
    parts = written.group(1).strip('"').split(":")
    columns, first = {}, 0
    for name, width in zip(parts[::3], parts[2::3], strict=False):
        columns[name] = first
        first += int(width) if width.isdecimal() else 1
    return columns


def _atom(file: Path, line: int, text: str, columns: dict[str, int]) -> tuple[str, list[float], bool]:
    cells = text.split()
    try:
        symbol = cells[columns["species"]]
        position = [float(cells[columns["pos"] + axis]) for axis in range(3)]
        moves = cells[columns["move_mask"]] in ("T", "True", "1") if "move_mask" in columns else True
    except (KeyError, IndexError, ValueError):
        raise Refusal(file, f"line {line}", "is no atom with a species and a position", "give extended XYZ") from None
    if symbol not in SYMBOLS:
        raise Refusal(file, f"line {line}", f"has the species {symbol!r}", "give the symbol of an element")
    return symbol, position, moves


def write_reactions(file: Path, reactions: Reactions) -> None:
    """Writes reactant, transition state and product of each reaction as extended XYZ, with a mark of the free atoms."""
    with replacing(file) as temporary:
        lines = []
        for number, (positions, numbers, free) in enumerate(reactions, 1):
            present = numbers > 0
            for place, frame in zip(PLACES, positions, strict=True):
                name = f'Properties=species:S:1:pos:R:3:move_mask:L:1 reaction={number} place="{place}"'
                lines += [str(present.sum()), name]
                for atom, position, moves in zip(numbers[present], frame[present], free[present], strict=True):
                    where = " ".join(f"{value:.5f}" for value in position)
                    lines.append(f"{SYMBOLS[atom - 1]} {where} {'T' if moves else 'F'}")
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


ENDS = 6
"""Channels of a context before those of the species: positions of the reactant, then of the product."""
OTHERS = ENDS + 1
"""Channels of a context before the species: the two ends, then whether an atom is free."""

HOPS = Path(__file__).with_name("hops.npz")
"""The reactions that ship."""


class ReactionsConfig(Section):
    """Transition states in angstrom: an example has the positions of its N atoms, [3, 1, N].

    Beside it are those of reactant and product, the species one-hot, and whether an atom is free, [7 + S, 1, N].
    """

    num_classes: ClassVar[int] = 0
    class_names: ClassVar[tuple[str, ...]] = ()

    kind: Literal["reactions"]
    path: Path | None = None
    """An .npz with positions [M, 3, N, 3] (reactant, transition state, product), numbers [M, N] and free [M, N], or an
    extended XYZ file of such triples; null: the reactions that ship, in which an adatom on a metal surface hops to the
    next hollow and two atoms of the bridge give way."""
    held_out: PositiveInt
    """Reactions that are kept out of training, the last of a shuffle."""
    split: NonNegativeInt = 0
    """Seed of the shuffle that decides which reactions are held out."""
    swap: bool = True
    """Exchange reactant and product of half of the examples in training, anew each time."""
    atoms: PositiveInt
    """Number of atoms of an example; left out: as many as the largest reaction of the file has. Smaller reactions are
    padded."""
    species: tuple[PositiveInt, ...]
    """Atomic numbers of the species; left out: the species of the file."""

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        path = document.get("path")
        if not isinstance(path, str | Path | None):
            return document
        file = HOPS if path is None else Path(path)
        facts = facts_of(str(file), lambda: _examined(file))
        held_out, total = document.get("held_out"), facts["total"]
        if isinstance(held_out, int) and held_out >= total:
            raise ValueError(f"held_out: {held_out} leaves none of the {total} reactions; use {total - 1} or less")
        return {"atoms": facts["atoms"], "species": facts["species"], **document}

    @model_validator(mode="after")
    def _species_differ(self) -> Self:
        if not self.species or len(set(self.species)) < len(self.species):
            raise ValueError(f"species: {list(self.species)} is no list of different atomic numbers; leave it out")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, 1, self.atoms

    @property
    def context_shape(self) -> tuple[int, int, int]:
        return OTHERS + len(self.species), 1, self.atoms

    def open(self) -> "ReactionSet":
        return ReactionSet(self)


class ReactionSet(Listed):
    """A data set of transition states float32 [3, 1, N]; their contexts hold the two ends."""

    num_classes = 0

    def __init__(self, config: ReactionsConfig) -> None:
        file = config.path or HOPS
        reactions = read_reactions(file)
        missing = config.atoms - reactions.positions.shape[2]
        back = "bring the file back that the run began with"
        if missing < 0:
            problem = f"have {reactions.positions.shape[2]} atoms, where the run has {config.atoms}"
            raise Refusal(file, "positions", problem, back)
        if odd := sorted(set(reactions.species) - set(config.species)):
            problem = f"hold atoms of the number {odd[0]}, where the run has {list(config.species)}"
            raise Refusal(file, "numbers", problem, back)
        if len(reactions.positions) <= config.held_out:
            raise Refusal(
                file, "positions", f"are of {len(reactions.positions)} reactions, and so many are held out", back
            )
        positions = torch.nn.functional.pad(torch.from_numpy(reactions.positions), (0, 0, 0, missing))
        numbers = torch.nn.functional.pad(torch.from_numpy(reactions.numbers).long(), (0, missing))
        free = torch.nn.functional.pad(torch.from_numpy(reactions.free), (0, missing))
        by_channel = positions.transpose(2, 3)[:, :, :, None]  # [M, 3 positions, 3, 1, N]
        one_hot = numbers[:, None, None] == torch.tensor(config.species)[:, None, None]
        self._states = by_channel[:, 1]
        self._contexts = torch.cat(
            [by_channel[:, 0], by_channel[:, 2], one_hot.float(), free[:, None, None].float()], dim=1
        )
        self._swaps = config.swap
        self.shape = config.shape
        self.files = () if config.path is None else (DataFiles(config.path.parent, [config.path.name]),)
        shuffled = torch.randperm(len(positions), generator=torch.Generator().manual_seed(config.split))
        self.splits = {"train": shuffled[: -config.held_out], "held_out": shuffled[-config.held_out :]}

    def get(self, indices: Tensor) -> Batch:
        return Batch(self._states[indices], None, indices, context=self._contexts[indices])

    def augmented(self, batch: Batch, positions: Tensor, *, seed: int) -> Batch:
        if not self._swaps or batch.context is None:
            return batch
        keys = fold_in(fold_in(torch.tensor(seed), torch.tensor(derive_seed(0, "swapped ends"))), positions)
        backwards = (keys & 1).bool()[:, None, None, None]
        return replace(batch, context=torch.where(backwards, swapped(batch.context), batch.context))


def swapped(context: Tensor) -> Tensor:
    """Returns the contexts [B, 7 + S, 1, N] with reactant and product exchanged."""
    return torch.cat([context[:, 3:ENDS], context[:, :3], context[:, ENDS:]], dim=1)


def _examined(file: Path) -> dict[str, Any]:
    reactions = read_reactions(file)
    return {
        "atoms": reactions.positions.shape[2],
        "species": list(reactions.species),
        "total": len(reactions.positions),
    }
