"""Pairs of surfaces whose points are to be matched: analytic ones, or those of files.

Shape suffixes: P points, V vertices, K eigenfunctions, D signatures.
"""

import sys
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator
from torch import Tensor

from netsim.foundation.files import file_digest, replacing
from netsim.foundation.refusal import DiskFull, Refusal
from netsim.foundation.settings import Section
from trainer.data.files import DataFiles, facts_of
from trainer.data.protocol import Batch, Listed, shuffled_splits
from trainer.data.shard.index import SPLITS
from trainer.data.spectra import Spectrum, areas_around, spectrum, spread_out, wave_signatures
from trainer.data.surface_files import Surface
from trainer.data.surface_pairs import Ids, PairsOfFiles, analytic_pair, sphere_vertices

CACHE = "spectra"
"""Folder, beside the surfaces, for their cached spectra; it may be removed."""
MOST_POINTS = 1500
FITTED = ("eigenfunctions", "waves", "closed")
"""Settings that must fit the surfaces."""


class AnalyticConfig(Section):
    """Pairs of a sphere with bumps and the same surface with other triangles, bent."""

    pairs: PositiveInt = 1
    """Pairs that are made."""
    seed: NonNegativeInt = 0
    """Seed of the bumps of the first pair; each further pair has the next number as its seed."""
    halvings: int = Field(default=3, ge=1, le=6)
    """Halvings of the edges of an icosahedron: 3 make 642 vertices."""
    bend: float = Field(default=0.5, ge=0, le=3)
    """Radians by which the second surface of a pair is bent."""


class SurfacesConfig(Section):
    """Pairs of surfaces: an example has the wave kernel signatures of P points of each, [2, P, D].

    Beside it are [2, P + 1, 1 + K]: first the eigenvalues, then of each point its area and its eigenfunctions. The
    correspondence is not part of an example; where it is known, the correspondence found is compared with it.
    """

    num_classes: ClassVar[int] = 0
    class_names: ClassVar[tuple[str, ...]] = ()

    kind: Literal["surfaces"]
    path: Path | None = None
    """Folder of surfaces of triangles in OFF, OBJ or PLY; null: analytic pairs. Of a file in several connected parts
    the one of most vertices is taken."""
    pairs: Path | None = None
    """A text file with a line for each pair: the names of the first and of the second file in `path`, and, where the
    correspondence is known, `same` (both have the same vertices in one order) or the name of a file of whole numbers:
    for each vertex of the second surface the number of its vertex of the first, from 0, or -1 if unknown. null: every
    two surfaces, without a known correspondence."""
    analytic: AnalyticConfig = AnalyticConfig()
    """Analytic pairs, which are used if `path` is null."""
    eigenfunctions: int = Field(default=40, ge=8)
    """Number of eigenfunctions of the Laplacian between which maps are learned."""
    waves: int = Field(default=100, ge=8)
    """Eigenfunctions that signatures are made of."""
    signatures: int = Field(default=100, ge=2)
    """Wave kernel signatures of a point, each of another energy."""
    closed: bool = False
    """Refuse surfaces with a border."""
    mirror: Literal["x", "y", "z"] | None = None
    """Axis along which the first surface of a pair is its own mirror image; errors are then also given up to this
    symmetry."""
    held_out: NonNegativeInt = 0
    """Pairs that are kept out of training, the last of a fixed shuffle; 0: all are learned from and measured, since
    training sees no correspondence."""
    points: int = Field(ge=2)
    """Points of a surface from which losses are computed, spread out over it; left out: all vertices of the largest
    surface, and at most 1,500. Smaller surfaces are filled up by points without an area."""
    num_pairs: PositiveInt
    """Number of pairs; left out: as many as the files or `analytic` give."""

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        path, pairs, analytic = document.get("path"), document.get("pairs"), document.get("analytic")
        if not isinstance(path, str | Path):
            try:
                made = AnalyticConfig.model_validate(analytic or {})
            except ValidationError:
                return document  # its validation says so again
            facts = {"largest": sphere_vertices(made.halvings), "pairs": made.pairs}
        elif isinstance(pairs, str | Path | None):
            says = "points" not in document  # else the run is resolved already, and the line was printed
            fitted = {name: document.get(name, cls.model_fields[name].default) for name in FITTED}
            listed, key = None if pairs is None else Path(pairs), f"{path} {pairs} {[*fitted.values()]}"
            facts = facts_of(key, lambda: _examined(Path(path), listed, fitted, says))
        else:
            return document
        return {"points": min(facts["largest"], MOST_POINTS), "num_pairs": facts["pairs"], **document}

    @model_validator(mode="after")
    def _pairs_are_left(self) -> Self:
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

    def open(self) -> "SurfacePairs":
        return SurfacePairs(self)


@dataclass(frozen=True, eq=False)
class Examined:
    """A surface with its spectrum, its signatures and a choice of its vertices.

    Attributes:
        name: of its file, or of its place among the analytic pairs.
        functions: float64 [V, K], those of its eigenfunctions between which maps are learned.
        signatures: float64 [V, D].
        chosen: int64 [P] vertices that are spread out over it, at most as many as it has.
        chosen_areas: float64 [P], area of the vertices nearest to each, together 1.
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
        truth: int64 [V of the second] the vertex of the first that belongs to each, -1 where unknown; None if all are
            unknown.
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
        self._read = None
        if config.path is not None:
            self._read = PairsOfFiles.read(config.path, config.pairs)
            if (num := len(self._read.lines)) != config.num_pairs:
                problem = f"has {num} pairs, where the run has {config.num_pairs}"
                remedy = "bring the files back that the run began with"
                raise Refusal(config.pairs or config.path, "pairs", problem, remedy)
            self._read.check(**{name: getattr(config, name) for name in FITTED})
            self.files = (DataFiles(config.path, self._read.names),)

    def pair(self, number: int) -> Pair:
        """A pair by its id, examined when it is first wanted."""
        shape = self.config.analytic
        with self._lock:
            if self._read is None:
                seed = shape.seed + number
                first, second, truth = analytic_pair(seed, halvings=shape.halvings, bend=shape.bend)
                return Pair(self._examined(f"{seed} straight", first), self._examined(f"{seed} bent", second), truth)
            one, other = (self._examined(name, self._read.surfaces[name]) for name in self._read.lines[number][:2])
            return Pair(one, other, self._read.truth(number))

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
            solved = self._spectrum(name, surface)
            chosen = spread_out(surface.vertices, min(config.points, len(surface.vertices)))
            waves = Spectrum(solved.areas, solved.eigenvalues[: config.waves], solved.eigenfunctions[:, : config.waves])
            signatures = wave_signatures(waves, config.signatures)
            areas = areas_around(surface.vertices, solved.areas, chosen)
            functions = solved.eigenfunctions[:, : config.eigenfunctions]
            self._known[name] = Examined(name, surface, solved, functions, signatures, chosen, areas)
        return self._known[name]

    def _spectrum(self, name: str, surface: Surface) -> Spectrum:
        """Returns the spectrum of a surface from the cache, or else computes it and caches it if possible."""
        config, num = self.config, max(self.config.eigenfunctions, self.config.waves)
        if config.path is None:
            return spectrum(surface, num)
        cache = config.path / CACHE / f"{file_digest(config.path / name)[:16]}_{num}.npz"
        fields = ("areas", "eigenvalues", "eigenfunctions")
        try:
            with np.load(cache, allow_pickle=False) as kept:
                solved = Spectrum(*(np.asarray(kept[field], np.float64) for field in fields))
            if solved.eigenfunctions.shape == (len(surface.vertices), num) and len(solved.eigenvalues) == num:
                return solved
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass
        solved = spectrum(surface, num)
        with suppress(OSError, Refusal, DiskFull), replacing(cache) as temporary, temporary.open("wb") as file:
            np.savez(file, **{field: getattr(solved, field) for field in fields})
        return solved


def _examined(folder: Path, pairs: Path | None, fitted: dict[str, Any], says: bool) -> dict[str, Any]:
    """Reads and checks the files, and returns facts about them; with `says`, prints which surfaces lose parts."""
    files = PairsOfFiles.read(folder, pairs)
    files.check(**fitted)
    several = [(name, surface) for name, surface in files.surfaces.items() if surface.parts > 1]
    if several and says:
        name, surface = several[0]
        others = f", and so for {len(several) - 1} others" if len(several) > 1 else ""
        print(
            f"{folder / name}: has {surface.parts} connected parts, of which the one of most vertices "
            f"({len(surface.vertices)} of {surface.total}) is taken{others}",
            file=sys.stderr,
            flush=True,
        )
    return {"largest": max(len(surface.vertices) for surface in files.surfaces.values()), "pairs": len(files.lines)}
