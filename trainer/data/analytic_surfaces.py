"""Pairs of closed surfaces whose correspondence is known by construction: a sphere with bumps, cut anew and bent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.data.surface_files import Surface

BUMPS = 5
HEIGHTS, WIDTHS = (0.05, 0.15), (0.25, 0.6)
"""Of bumps, as shares of the radius and in radians."""
STRETCH = np.array([0.9, 0.75, 1.25])
"""Of the sphere along the three axes, so that it has a length to bend."""

Floats = NDArray[np.float64]


def sphere_vertices(halvings: int) -> int:
    return 10 * 4**halvings + 2


def icosphere(halvings: int) -> tuple[Floats, NDArray[np.int64]]:
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


def analytic_pair(seed: int, *, halvings: int, bend: float) -> tuple[Surface, Surface, NDArray[np.int64]]:
    """Two surfaces, and for each vertex of the second the nearest one of the first.

    The second has the same bumps on a sphere that is cut into triangles from another side, bent by so many radians.
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
    """Points [V, 3] whose third axis becomes an arc of some angle, without a change of length in the middle."""
    if angle == 0:
        return places
    x, y, z = places.T
    length = z.max() - z.min()
    radius = length / angle
    return np.stack([(radius + x) * np.cos(z / radius) - radius, y, (radius + x) * np.sin(z / radius)], axis=1)
