"""Pairs of surfaces and their correspondence: from files, or a sphere with bumps, triangulated anew and bent.

Shape suffixes: V vertices.
"""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.files import reading
from netsim.foundation.refusal import Refusal
from trainer.data.files import text_lines
from trainer.data.surface_files import ENDINGS, Surface, read_surface

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
SAME = "same"
"""Written instead of a file's name: both surfaces of a pair have the same vertices in one order."""

BUMPS = 5
HEIGHTS, WIDTHS = (0.05, 0.15), (0.25, 0.6)
"""Ranges of the heights (relative to the radius) and widths (in radians) of bumps."""
STRETCH = np.array([0.9, 0.75, 1.25])
"""Factors that stretch the sphere along its three axes, so that it has a length to bend."""


def sphere_vertices(halvings: int) -> int:
    return 10 * 4**halvings + 2


def icosphere(halvings: int) -> tuple[Floats, Ids]:
    """Vertices on the unit sphere [V, 3], and its triangles: an icosahedron whose edges are halved."""
    golden = (1 + 5**0.5) / 2
    quarter = np.array([[-1, golden, 0], [1, golden, 0], [-1, -golden, 0], [1, -golden, 0]])
    vertices = np.concatenate([np.roll(quarter, axis, axis=1) for axis in range(3)])
    distances = np.linalg.norm(vertices[:, None] - vertices, axis=-1)
    near = np.abs(distances - 2) < 1e-9
    triangles = [
        (a, b, c) for a in range(12) for b in range(a) for c in range(b) if near[a, b] and near[b, c] and near[a, c]
    ]
    faces = np.array(triangles)
    corners = vertices[faces]
    outwards = (np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) * corners[:, 0]).sum(1) > 0
    faces = np.where(outwards[:, None], faces, faces[:, ::-1])
    for _ in range(halvings):
        sides = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
        edges, number = np.unique(sides, axis=0, return_inverse=True)
        middle = len(vertices) + number.reshape(3, -1)
        vertices = np.concatenate([vertices, vertices[edges].mean(1)])
        (a, b, c), (ab, bc, ca) = faces.T, middle
        faces = np.concatenate([np.stack(one, axis=1) for one in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return vertices / np.linalg.norm(vertices, axis=1, keepdims=True), faces


def analytic_pair(seed: int, *, halvings: int, bend: float) -> tuple[Surface, Surface, Ids]:
    """Two surfaces, and for each vertex of the second the nearest one of the first.

    The second has the same bumps on a sphere that is triangulated from another side, and is bent by `bend` radians.
    """
    rng = np.random.default_rng([seed, 0])
    directions, faces = icosphere(halvings)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    centres = rng.normal(size=(BUMPS, 3))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    heights, widths = rng.uniform(*HEIGHTS, BUMPS), rng.uniform(*WIDTHS, BUMPS)

    def places(towards: Floats) -> Floats:
        angles = np.arccos(np.clip(towards @ centres.T, -1, 1))
        return towards * (1 + np.exp(-np.square(angles / widths)) @ heights)[:, None] * STRETCH

    turned = directions @ turn.T
    first, second = places(directions), bent(places(turned), bend)
    nearest = (turned @ directions.T).argmax(1)
    every = np.arange(len(directions))
    return Surface(first, faces, every, len(every)), Surface(second, faces, every, len(every)), nearest


def bent(places: Floats, angle: float) -> Floats:
    """Bends points [V, 3]: the third axis becomes an arc of `angle` radians, in the middle of unchanged length."""
    if angle == 0:
        return places
    x, y, z = places.T
    length = z.max() - z.min()
    radius = length / angle
    return np.stack([(radius + x) * np.cos(z / radius) - radius, y, (radius + x) * np.sin(z / radius)], axis=1)


Line = tuple[str, str, str | None]
"""Names of both surfaces of a pair, and `same`, the name of a map, or None."""


@dataclass(frozen=True)
class PairsOfFiles:
    """Pairs of the surfaces in a folder, in their order."""

    folder: Path
    lines: list[Line]
    surfaces: dict[str, Surface]

    @classmethod
    def read(cls, folder: Path, pairs: Path | None) -> Self:
        """Reads the pairs that the file `pairs` lists, or every two surfaces; a Refusal names what is wrong in them."""
        lines = _listed(folder, pairs)
        names = dict.fromkeys(name for line in lines for name in line[:2])
        return cls(folder, lines, {name: read_surface(folder / name) for name in names})

    def check(self, *, eigenfunctions: Any, waves: Any, closed: Any) -> None:
        """Refuses wrong maps, and surfaces that settings do not fit; wrongly typed settings are left to validation."""
        for name, surface in self.surfaces.items():
            file, num = self.folder / name, len(surface.vertices)
            for field, value in (("eigenfunctions", eigenfunctions), ("waves", waves)):
                if isinstance(value, int) and value >= num:
                    problem = f"are {num}, and data.{field} are {value}"
                    remedy = f"use data.{field}={num - 1} or less, or leave the surface out"
                    raise Refusal(file, "vertices", problem, remedy)
            if closed is True and not surface.closed:
                problem = "has a border, and data.closed is true"
                raise Refusal(file, "surface", problem, "close it, or use data.closed=false")
        for number in range(len(self.lines)):
            self.truth(number)

    @property
    def names(self) -> list[str]:
        """Names of all files in the folder that are read."""
        maps = dict.fromkeys(known for _, _, known in self.lines if known not in (None, SAME))
        return [*self.surfaces, *map(str, maps)]

    def truth(self, number: int) -> Ids | None:
        """Vertices of the first surface of a pair for those of the second; a Refusal names what is wrong in a map."""
        first, second, known = self.lines[number]
        if known is None:
            return None
        one, other = self.surfaces[first], self.surfaces[second]
        if known == SAME:
            if one.total != other.total:
                problem = f"are {other.total}, those of {first} are {one.total}, and the pair has no map but {SAME}"
                remedy = "name the file of a map in place of same, or nothing"
                raise Refusal(self.folder / second, "vertices", problem, remedy)
            numbers = np.arange(other.total)
        else:
            numbers = _map(self.folder / known, of=other.total, among=one.total)
        place = np.full(one.total + 1, -1)
        place[one.kept] = np.arange(len(one.kept))
        return place[numbers[other.kept]]


def _listed(folder: Path, pairs: Path | None) -> list[Line]:
    if pairs is None:
        with reading(folder, "correct data.path", "folder"):
            names = sorted(one.name for one in folder.iterdir() if one.suffix.lower() in ENDINGS)
        if len(names) < 2:
            raise Refusal(folder, "surfaces", f"are {len(names)}", "give two or more, as OFF, OBJ or PLY")
        return [(first, second, None) for first, second in combinations(names, 2)]
    lines: list[Line] = []
    for number, text in enumerate(text_lines(pairs, "correct data.pairs"), 1):
        match text.split():
            case []:
                pass
            case [first, second]:
                lines.append((first, second, None))
            case [first, second, known]:
                lines.append((first, second, known))
            case words:
                problem = f"has {len(words)} words"
                raise Refusal(pairs, f"line {number}", problem, "give two files and, where it is known, same or a map")
    if not lines:
        raise Refusal(pairs, "pairs", "there are none", "give a line for each")
    return lines


def _map(file: Path, *, of: int, among: int) -> Ids:
    """Reads from a file a number for each of `of` vertices, from -1 (unknown) to `among` - 1."""
    words = " ".join(text_lines(file, "correct data.pairs")).split()
    if len(words) != of:
        problem = f"are {len(words)}, and the second surface has {of} vertices"
        raise Refusal(file, "numbers", problem, "give a vertex of the first surface for each of the second, or -1")
    for place, word in enumerate(words):
        if not word.removeprefix("-").isdecimal() or not -1 <= int(word) < among:
            problem = f"is {word:.20}, and the first surface has the vertices from 0 to {among - 1}"
            raise Refusal(file, f"number {place}", problem, "correct it, or use -1 where nothing is known")
    return np.array([int(word) for word in words])
