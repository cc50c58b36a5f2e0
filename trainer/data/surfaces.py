"""Pairs of surfaces whose points are to be matched: analytic ones, or those of files.

Shape suffixes: P points, V vertices, K eigenfunctions, D signatures.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator
from torch import Tensor

from netsim.foundation.digests import file_digest
from netsim.foundation.files import replacing
from netsim.foundation.refusal import DiskFull, Refusal
from netsim.foundation.settings import Section
from trainer.data.analytic_surfaces import analytic_pair, sphere_vertices
from trainer.data.files import DataFiles, found_once
from trainer.data.protocol import Batch, Listed, shuffled_splits
from trainer.data.shard.index import SPLITS
from trainer.data.spectra import Spectrum, areas_around, spectrum, spread_out, wave_signatures
from trainer.data.surface_files import Surface, read_surface

CACHE = "spectra"
"""Folder beside the surfaces for what is computed of them; it may be removed."""
SAME = "same"
"""In place of a file: both surfaces of a pair have the same vertices in one order."""
MOST_POINTS = 1500
ENDINGS = (".off", ".obj", ".ply")
Ids = NDArray[np.int64]


class AnalyticConfig(Section):
    """Pairs of a sphere with bumps, and the same cut into other triangles and bent."""

    pairs: PositiveInt = 1
    """How many."""
    seed: NonNegativeInt = 0
    """Of the bumps of the first pair; the next has the next."""
    halvings: int = Field(default=3, ge=1, le=6)
    """Halvings of the edges of an icosahedron: 3 make 642 vertices."""
    bend: float = Field(default=0.5, ge=0, le=3)
    """Radians by which the second is bent."""


class SurfacesConfig(Section):
    """Pairs of surfaces: an example has the wave kernel signatures of P points of each, [2, P, D].

    Beside it are [2, P + 1, 1 + K]: first the eigenvalues, then of each point its area and its eigenfunctions. No
    correspondence is among them; where it is known, what is found is measured by it.
    """

    kind: Literal["surfaces"]
    path: Path | None = None
    """Folder of surfaces of triangles in OFF, OBJ or PLY; null: analytic pairs. Of a file in several connected parts
    the one of most vertices is taken."""
    pairs: Path | None = None
    """A text file with a line for each pair: the names of the first and of the second file in `path`, and, where the
    correspondence is known, `same` (both have the same vertices in one order) or the name of a file of whole numbers:
    for each vertex of the second one of the first, from 0, or -1. null: every two surfaces, of which nothing is
    known."""
    analytic: AnalyticConfig = AnalyticConfig()
    """The pairs without a path."""
    eigenfunctions: int = Field(default=40, ge=8)
    """Of the Laplacian, between which maps are learned."""
    waves: int = Field(default=100, ge=8)
    """Eigenfunctions that signatures are made of."""
    signatures: int = Field(default=100, ge=2)
    """Wave kernel signatures of a point, each of another energy."""
    closed: bool = False
    """Refuse surfaces with a border."""
    mirror: Literal["x", "y", "z"] | None = None
    """Axis along which the first surface of a pair is its mirror image, so that errors are also given up to it."""
    held_out: NonNegativeInt = 0
    """Pairs that are kept out of training, the last of a fixed shuffle; 0: all are learned from and measured, since
    training sees no correspondence."""
    points: int = Field(ge=2)
    """Of a surface, spread out over it, that losses are computed from; left out: all vertices of the largest, and at
    most 1,500. Smaller surfaces are filled up by points without an area."""
    num_pairs: PositiveInt
    """Left out: those of the files, or of `analytic`."""

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        """Fills in what the files say, and refuses what is no set of surfaces."""
        path, pairs, analytic = document.get("path"), document.get("pairs"), document.get("analytic")
        if not isinstance(path, str | Path):
            try:
                made = AnalyticConfig.model_validate(analytic or {})
            except ValidationError:
                return document  # its validation says so again
            facts = {"largest": sphere_vertices(made.halvings), "pairs": made.pairs}
        elif isinstance(pairs, str | Path | None):
            says = "points" not in document  # else the run is resolved already, and the line was printed
            try:
                wanted = [document.get(name, cls.model_fields[name].default) for name in FITTED]
                listed = None if pairs is None else Path(pairs)
                facts = found_once(f"{path} {pairs} {wanted}", lambda: _examined(Path(path), listed, wanted, says))
            except Refusal as error:
                raise ValueError(f"path: {error}") from error
        else:
            return document
        return {"points": min(facts["largest"], MOST_POINTS), "num_pairs": facts["pairs"], **document}

    @model_validator(mode="after")
    def _pairs_are_left(self) -> SurfacesConfig:
        if self.path is None and self.pairs is not None:
            raise ValueError(f"pairs: {self.pairs} without a path; name the folder of the surfaces")
        if self.path is None and self.num_pairs != self.analytic.pairs:
            raise ValueError(f"num_pairs: {self.num_pairs} with analytic.pairs {self.analytic.pairs}; leave it out")
        if self.held_out >= self.num_pairs:
            remedy = f"use {self.num_pairs - 1} or less" if self.num_pairs > 1 else "use 0"
            raise ValueError(f"held_out: {self.held_out} leaves none of the {self.num_pairs} pairs; {remedy}")
        most = max(self.eigenfunctions, self.waves)
        if self.path is None and most >= sphere_vertices(self.analytic.halvings):
            field = "eigenfunctions" if self.eigenfunctions == most else "waves"
            raise ValueError(
                f"{field}: {most} of surfaces of {sphere_vertices(self.analytic.halvings)} vertices; use fewer, or "
                "more analytic.halvings"
            )
        if self.points < self.eigenfunctions:
            raise ValueError(
                f"points: {self.points} do not tell {self.eigenfunctions} eigenfunctions apart; use as many or more"
            )
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        return 2, self.points, self.signatures

    @property
    def context_shape(self) -> tuple[int, int, int]:
        return 2, self.points + 1, 1 + self.eigenfunctions

    @property
    def num_classes(self) -> int:
        return 0

    @property
    def class_names(self) -> tuple[str, ...]:
        return ()

    def open(self) -> SurfacePairs:
        return SurfacePairs(self)


@dataclass(frozen=True, eq=False)
class Examined:
    """A surface and what is computed of it.

    Attributes:
        name: of its file, or of its place among the analytic pairs.
        functions: float64 [V, K], those of its eigenfunctions between which maps are learned.
        signatures: float64 [V, D].
        chosen: int64 [P] vertices that are spread out over it, at most as many as it has.
        chosen_areas: float64 [P] of what is nearest to each, together 1.
    """

    name: str
    surface: Surface
    spectrum: Spectrum
    functions: NDArray[np.float64]
    signatures: NDArray[np.float64]
    chosen: Ids
    chosen_areas: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two surfaces.

    Attributes:
        truth: int64 [V of the second] the vertex of the first that belongs to each, -1 where unknown; None: nothing is
            known.
    """

    first: Examined
    second: Examined
    truth: Ids | None


class SurfacePairs(Listed):
    """Signatures float32 [2, P, D] of pairs, whose eigenfunctions and areas their contexts hold."""

    num_classes = 0

    def __init__(self, config: SurfacesConfig) -> None:
        self.config, self.shape = config, config.shape
        self._known: dict[str, Examined] = {}
        self._lock = Lock()
        if config.held_out:
            self.splits = shuffled_splits(config.num_pairs, config.held_out)
        else:
            self.splits = {split: torch.arange(config.num_pairs) for split in SPLITS}
        self._lines: list[Line] = []
        self._surfaces: dict[str, Surface] = {}
        if config.path is not None:
            self._open(config.path)

    def _open(self, folder: Path) -> None:
        config, back = self.config, "bring the files back that the run began with"
        self._lines = _listed(folder, config.pairs)
        if len(self._lines) != config.num_pairs:
            problem = f"has {len(self._lines)} pairs, where the run has {config.num_pairs}"
            raise Refusal(config.pairs or folder, "pairs", problem, back)
        self._surfaces = _read(folder, self._lines)
        for name, surface in self._surfaces.items():
            _check_fits(folder / name, surface, [getattr(config, name) for name in FITTED])
        maps = dict.fromkeys(known for _, _, known in self._lines if known not in (None, SAME))
        self.files = (DataFiles(folder, [*self._surfaces, *map(str, maps)]),)
        for line in self._lines:
            _truth(folder, self._surfaces, line)

    def pair(self, number: int) -> Pair:
        """A pair by its id, examined when it is first asked for."""
        config = self.config
        with self._lock:
            if config.path is None:
                shape = config.analytic
                first, second, truth = analytic_pair(shape.seed + number, halvings=shape.halvings, bend=shape.bend)
                names = f"{shape.seed + number} straight", f"{shape.seed + number} bent"
                return Pair(self._examined(names[0], first), self._examined(names[1], second), truth)
            first, second, _ = line = self._lines[number]
            one, other = (self._examined(name, self._surfaces[name]) for name in (first, second))
            return Pair(one, other, _truth(config.path, self._surfaces, line))

    def get(self, indices: Tensor) -> Batch:
        pairs = [self.pair(number) for number in indices.tolist()]
        rows = [[self._rows(side) for side in (one.first, one.second)] for one in pairs]
        signatures = torch.stack([torch.stack([values for values, _ in one]) for one in rows])
        contexts = torch.stack([torch.stack([context for _, context in one]) for one in rows])
        return Batch(signatures, None, indices, context=contexts)

    def _rows(self, side: Examined) -> tuple[Tensor, Tensor]:
        """Signatures [P, D] and context [P + 1, 1 + K] of a surface, zeros where it has fewer vertices."""
        config, num = self.config, len(side.chosen)
        signatures = torch.zeros(self.shape[1:])
        signatures[:num] = torch.from_numpy(side.signatures[side.chosen])
        context = torch.zeros(config.points + 1, 1 + config.eigenfunctions)
        context[0, 1:] = torch.from_numpy(side.spectrum.eigenvalues[: config.eigenfunctions])
        context[1 : num + 1, 0] = torch.from_numpy(side.chosen_areas)
        context[1 : num + 1, 1:] = torch.from_numpy(side.functions[side.chosen])
        return signatures, context

    def _examined(self, name: str, surface: Surface) -> Examined:
        if name not in self._known:
            config = self.config
            found = self._spectrum(name, surface)
            chosen = spread_out(surface.vertices, min(config.points, len(surface.vertices)))
            waves = Spectrum(found.areas, found.eigenvalues[: config.waves], found.eigenfunctions[:, : config.waves])
            signatures = wave_signatures(waves, config.signatures)
            areas = areas_around(surface.vertices, found.areas, chosen)
            functions = found.eigenfunctions[:, : config.eigenfunctions]
            self._known[name] = Examined(name, surface, found, functions, signatures, chosen, areas)
        return self._known[name]

    def _spectrum(self, name: str, surface: Surface) -> Spectrum:
        """As it was computed of the same file before, if that is still there; else it is, and is kept if it can be."""
        config, num = self.config, max(self.config.eigenfunctions, self.config.waves)
        if config.path is None:
            return spectrum(surface, num)
        cache = config.path / CACHE / f"{file_digest(config.path / name)[:16]}_{num}.npz"
        fields = ("areas", "eigenvalues", "eigenfunctions")
        try:
            with np.load(cache, allow_pickle=False) as kept:
                found = Spectrum(*(np.asarray(kept[field], np.float64) for field in fields))
            if found.eigenfunctions.shape == (len(surface.vertices), num) and len(found.eigenvalues) == num:
                return found
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass
        found = spectrum(surface, num)
        with suppress(OSError, Refusal, DiskFull), replacing(cache) as temporary, temporary.open("wb") as file:
            np.savez(file, **{field: getattr(found, field) for field in fields})
        return found


Line = tuple[str, str, str | None]
"""Names of the first and of the second surface of a pair, and `same` or the name of a map, or None."""


def _listed(folder: Path, pairs: Path | None) -> list[Line]:
    """The pairs of a folder in their order."""
    if pairs is None:
        try:
            names = sorted(one.name for one in folder.iterdir() if one.suffix.lower() in ENDINGS)
        except OSError as error:
            raise Refusal(folder, "folder", f"cannot be read ({error.strerror})", "correct data.path") from None
        if len(names) < 2:
            raise Refusal(folder, "surfaces", f"are {len(names)}", "give two or more, as OFF, OBJ or PLY")
        return [(first, second, None) for first, second in combinations(names, 2)]
    lines: list[Line] = []
    for number, text in _lines_of(pairs):
        match text.split():
            case [first, second]:
                lines.append((first, second, None))
            case [first, second, known]:
                lines.append((first, second, known))
            case words:
                problem = f"has {len(words)} words"
                raise Refusal(pairs, f"line {number}", problem, "give two files and, where it is known, same or a map")
    if not lines:
        raise Refusal(pairs, "pairs", "are none", "give a line for each")
    return lines


def _truth(folder: Path, surfaces: Mapping[str, Surface], line: Line) -> Ids | None:
    """Vertices of the first surface of a pair for those of the second; a Refusal names what is wrong in a map."""
    first, second, known = line
    if known is None:
        return None
    one, other = surfaces[first], surfaces[second]
    if known == SAME:
        if one.total != other.total:
            problem = f"are {other.total}, those of {first} are {one.total}, and the pair has no map but {SAME}"
            raise Refusal(folder / second, "vertices", problem, "name the file of a map in place of same, or nothing")
        numbers = np.arange(other.total)
    else:
        numbers = _map(folder / known, of=other.total, among=one.total)
    place = np.full(one.total + 1, -1)
    place[one.kept] = np.arange(len(one.kept))
    return place[numbers[other.kept]]


def _lines_of(file: Path) -> list[tuple[int, str]]:
    """Lines that have words, by their number."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise Refusal(file, "file", f"cannot be read ({reason})", "correct data.pairs") from None
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _map(file: Path, *, of: int, among: int) -> Ids:
    """The numbers in a file, one for each of `of` vertices, from -1 to `among` - 1."""
    words = " ".join(line for _, line in _lines_of(file)).split()
    if len(words) != of:
        problem = f"are {len(words)}, and the second surface has {of} vertices"
        raise Refusal(file, "numbers", problem, "give a vertex of the first surface for each of the second, or -1")
    for place, word in enumerate(words):
        if not word.removeprefix("-").isdecimal() or not -1 <= int(word) < among:
            problem = f"is {word:.20}, and the first surface has the vertices from 0 to {among - 1}"
            raise Refusal(file, f"number {place}", problem, "correct it, or use -1 where nothing is known")
    return np.array([int(word) for word in words])


def _read(folder: Path, lines: Iterable[Line]) -> dict[str, Surface]:
    """Each surface of some pairs, by its name."""
    return {name: read_surface(folder / name) for name in dict.fromkeys(name for line in lines for name in line[:2])}


FITTED = ("eigenfunctions", "waves", "closed")
"""Settings that surfaces must fit."""


def _check_fits(file: Path, surface: Surface, wanted: Sequence[Any]) -> None:
    """Refuses a surface that is too small or has a border; settings that are not valid say so themselves."""
    (eigenfunctions, waves, closed), num = wanted, len(surface.vertices)
    for field, value in (("eigenfunctions", eigenfunctions), ("waves", waves)):
        if isinstance(value, int) and value >= num:
            problem = f"are {num}, and data.{field} are {value}"
            raise Refusal(file, "vertices", problem, f"use data.{field}={num - 1} or less, or leave the surface out")
    if closed is True and not surface.closed:
        raise Refusal(file, "surface", "has a border, and data.closed is true", "close it, or use data.closed=false")


def _examined(folder: Path, pairs: Path | None, wanted: Sequence[Any], says: bool) -> dict[str, Any]:
    """Looks at the files, and says once from which of them parts are left out."""
    lines = _listed(folder, pairs)
    surfaces = _read(folder, lines)
    for name, surface in surfaces.items():
        _check_fits(folder / name, surface, wanted)
    for line in lines:
        _truth(folder, surfaces, line)
    several = {name: surface for name, surface in surfaces.items() if surface.parts > 1}
    if several and says:
        name, surface = next(iter(several.items()))
        others = f", and so for {len(several) - 1} others" if len(several) > 1 else ""
        print(
            f"{folder / name}: has {surface.parts} connected parts, of which the one of most vertices "
            f"({len(surface.vertices)} of {surface.total}) is taken{others}",
            file=sys.stderr,
            flush=True,
        )
    return {"largest": max(len(surface.vertices) for surface in surfaces.values()), "pairs": len(lines)}
