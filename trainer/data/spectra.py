"""Laplacians of surfaces, their eigenfunctions, and signatures and distances that bending leaves as they are.

Shape suffixes: V vertices, F triangles, K eigenfunctions, D signatures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainer.data.surface_files import Surface

if TYPE_CHECKING:
    from scipy.sparse import csc_array

Floats = NDArray[np.float64]
STEEPEST = 5.0
"""Largest absolute cotangent, which limits the weights of slivers."""
SHIFT = -1e-2
"""A value below all eigenvalues near which they are searched, since the matrix itself is singular."""
VARIANCE = 7.0
"""Width of a wave's energies, in distances between neighbouring energies (Aubry et al., section 4)."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Spectrum of the Laplacian of a surface scaled to an area of 1, which bending leaves unchanged.

    Attributes:
        areas: float64 [V] of each vertex, together 1.
        eigenvalues: float64 [K] of the Laplacian, ascending from 0.
        eigenfunctions: float64 [V, K], orthonormal by `areas`.
    """

    areas: Floats
    eigenvalues: Floats
    eigenfunctions: Floats


def laplacian(surface: Surface) -> tuple[csc_array, Floats]:
    """Returns the cotangent stiffness matrix [V, V], and for each vertex a third of the area of its triangles [V].

    Pinkall and Polthier, "Computing discrete minimal surfaces", 1993.
    """
    from scipy.sparse import coo_array, csc_array, diags_array

    num, triangles = len(surface.vertices), surface.triangles
    corners = surface.vertices[triangles]
    rows, columns, weights = [], [], []
    doubled = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    for corner in range(3):
        first, second = (corner + 1) % 3, (corner + 2) % 3
        towards = corners[:, first] - corners[:, corner], corners[:, second] - corners[:, corner]
        cotangent = np.clip((towards[0] * towards[1]).sum(1) / doubled, -STEEPEST, STEEPEST) / 2
        rows += [triangles[:, first], triangles[:, second]]
        columns += [triangles[:, second], triangles[:, first]]
        weights += [cotangent, cotangent]
    between = coo_array((np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=(num, num))
    areas = np.bincount(triangles.ravel(), np.repeat(doubled / 6, 3), minlength=num).astype(np.float64)
    return csc_array(diags_array(np.asarray(between.sum(1))) - between), areas


def spectrum(surface: Surface, num: int) -> Spectrum:
    """Returns the `num` smoothest eigenfunctions; `num` is less than the number of vertices."""
    from scipy.linalg import eigh
    from scipy.sparse import csc_array, diags_array
    from scipy.sparse.linalg import eigsh

    stiffness, areas = laplacian(surface)
    areas = areas / areas.sum()  # cotangents do not change with the scale
    if num >= len(areas) - 1:
        values, functions = eigh(stiffness.toarray(), np.diag(areas))
    else:
        start = np.random.default_rng(0).standard_normal(len(areas))
        values, functions = eigsh(stiffness, num, csc_array(diags_array(areas)), sigma=SHIFT, v0=start)
    order = np.argsort(values)[:num]
    return Spectrum(areas, np.maximum(values[order], 0), functions[:, order])


def wave_signatures(solved: Spectrum, num: int) -> Floats:
    """Returns wave kernel signatures [V, num] at energies equally spaced in the logarithm, each of mean 0, deviation 1.

    Aubry et al., "The wave kernel signature", 2011, equations 6 and 7.
    """
    logarithms = np.log(np.maximum(solved.eigenvalues[1:], 1e-9))
    energies, step = np.linspace(logarithms[0], logarithms[-1] / 1.02, num, retstep=True)
    waves = np.exp(-np.square(energies - logarithms[:, None]) / (2 * (VARIANCE * step) ** 2))
    densities = np.square(solved.eigenfunctions[:, 1:]) @ (waves / waves.sum(0))
    return standardised(densities, solved.areas)


def standardised(values: Floats, areas: Floats) -> Floats:
    centred = values - areas @ values
    return centred / np.sqrt(np.maximum(areas @ np.square(centred), 1e-18))


def distances(surface: Surface, sources: NDArray[np.int64]) -> Floats:
    """Lengths [S, V] of the shortest paths along edges from some vertices, on the surface scaled to an area of 1."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    corners = surface.vertices[surface.triangles]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    edges, num = surface.edges, len(surface.vertices)
    lengths = np.linalg.norm(np.subtract(*surface.vertices[edges.T]), axis=1) / np.sqrt(area)
    graph = coo_array((lengths, edges.T), shape=(num, num)).tocsr()
    return dijkstra(graph, directed=False, indices=sources)


def spread_out(places: Floats, num: int) -> NDArray[np.int64]:
    """`num` row numbers of places [V, 3], each the farthest from those before it, the first from the mean."""
    nearest = np.linalg.norm(places - places.mean(0), axis=1)
    chosen = [int(nearest.argmax())]
    nearest = np.full(len(places), np.inf)
    while len(chosen) < num:
        nearest = np.minimum(nearest, np.linalg.norm(places - places[chosen[-1]], axis=1))
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)


def areas_around(places: Floats, areas: Floats, chosen: NDArray[np.int64]) -> Floats:
    """Returns for each chosen vertex the sum of `areas` [V] over the vertices nearest to it."""
    from scipy.spatial import KDTree

    nearest = KDTree(places[chosen]).query(places)[1]
    return np.bincount(nearest, areas, minlength=len(chosen)).astype(np.float64)
