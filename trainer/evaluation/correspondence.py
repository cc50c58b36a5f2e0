"""Maps between surfaces from features, signatures or landmarks: their refinement and their errors.

Shape suffixes: N points of the second surface, M points of the first, V vertices, K eigenfunctions, D values of a
feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe.ot import sinkhorn, squared_euclidean
from trainer.config.sample import SurfaceSample
from trainer.data.spectra import distances
from trainer.data.surfaces import Examined, Pair

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Points:
    """Points of a surface that maps are made between.

    Attributes:
        areas: float32 [N], area of the vertices nearest to each, together 1.
        functions: float32 [N, K] eigenfunctions there, the smoothest first.
    """

    areas: Tensor
    functions: Tensor

    def spectral(self, values_ND: Tensor, num: int) -> Tensor:
        """Coefficients [num, D] of functions given at the points, in the first eigenfunctions."""
        weights_N1 = self.areas.sqrt()[:, None]
        return torch.linalg.lstsq(weights_N1 * self.functions[:, :num], weights_N1 * values_ND).solution


def nearest(of_ND: Floats, among_MD: Floats) -> Ids:
    """The nearest of the rows of `among` for each row of `of`, int64 [N]."""
    from scipy.spatial import KDTree

    return np.asarray(KDTree(among_MD).query(of_ND)[1], np.int64)


def functional_map(first: Points, second: Points, plan_NM: Tensor, num: int) -> Tensor:
    """Returns the functional map [num, num], first surface to second, of a transport plan whose rows sum to 1."""
    return second.spectral(plan_NM @ first.functions[:, :num], num)


def upsampled(first: Points, second: Points, begun: Ids, settings: SurfaceSample) -> Tensor:
    """Refines a point map into the functional map of all K eigenfunctions, [K, K], some eigenfunctions at a time.

    `begun` are points of the first surface, int64 [N]. Each step makes a point map of the functional map by nearest
    neighbours (Melzi et al., "ZoomOut", 2019, equation 5), or by the rows of an entropic transport plan of the areas.
    """
    plan_NM = _hard(begun, len(first.areas))
    most = first.functions.shape[1]
    for num in range(min(settings.first, most), most, settings.step):
        placed_NK, places_MK = _placed(first, second, functional_map(first, second, plan_NM, num))
        if settings.upsampling == "nearest":
            plan_NM = _hard(nearest(placed_NK.numpy(), places_MK.numpy()), len(first.areas))
            continue
        cost_NM = squared_euclidean(placed_NK, places_MK)
        plan_NM = sinkhorn(
            cost_NM / cost_NM.mean(),
            second.areas,
            first.areas,
            epsilon=2 * settings.deviation**2,
            tolerance=0.0,
            max_iterations=settings.iterations,
        ).values
        plan_NM = plan_NM / plan_NM.sum(1, keepdim=True)
    return functional_map(first, second, plan_NM, most)


def point_map(first: Points, second: Points, carries_KK: Tensor) -> Ids:
    """The point of the first surface that a functional map gives each point of the second, int64 [N]."""
    placed_NK, places_MK = _placed(first, second, carries_KK)
    return nearest(placed_NK.numpy(), places_MK.numpy())


def _placed(first: Points, second: Points, carries_KK: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the points of both surfaces in eigenfunctions of the first: carried by the map [N, K], and own [M, K]."""
    num = len(carries_KK)
    return second.functions[:, :num] @ carries_KK, first.functions[:, :num]


def _hard(chosen: Sequence[int] | Ids, columns: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.as_tensor(chosen), columns).float()


MEASURED = 500
"""Points of the second surface whose errors are measured."""
UPSAMPLINGS = ("nearest", "entropic")
SIGNATURES, FEATURES, LANDMARKS = "signatures", "features", "distances to landmarks"

Features = tuple[Floats, Floats]
"""Features float64 [V, W] of the vertices of both surfaces of a pair."""


@dataclass(frozen=True, eq=False)
class Matched:
    """A map from points of the second surface to vertices of the first.

    Attributes:
        begins: name of the values that the map is made from, such as features.
        by: name of the method: nearest neighbour, functional map, or an upsampling.
        vertices: int64 [N].
        errors: float64 [M] lengths of the shortest paths to the true vertices, where the area is 1; None: these are
            unknown.
        mirrored: the same to the true vertices or their mirror images, whichever is nearer; None: there is no mirror.
    """

    begins: str
    by: str
    vertices: Ids
    errors: Floats | None = None
    mirrored: Floats | None = None


@dataclass(frozen=True, eq=False)
class MatchedPair:
    """The maps of a pair, and the functional map [K, K] that the run's own upsampling of features ends with.

    `random` is the mean error of a vertex that is drawn by area, None if the true ones are unknown.
    """

    pair: Pair
    own: Matched
    carries: Tensor
    matches: tuple[Matched, ...]
    random: float | None


def own_map(pair: Pair, features: Features, sample: SurfaceSample) -> tuple[Matched, Tensor]:
    """The map that the section ``sample`` describes, and the functional map behind it."""
    return _grown(pair, FEATURES, _begun(pair, *features), sample)


def matched(
    pair: Pair, features: Features, sample: SurfaceSample, *, temperature: float, mirror: str | None
) -> MatchedPair:
    """Returns all maps of a pair, with their errors where the true correspondence is known."""
    values = {
        SIGNATURES: (pair.first.signatures, pair.second.signatures),
        FEATURES: features,
    }
    if sample.landmarks and pair.truth is not None:
        values[LANDMARKS] = _to_landmarks(pair, pair.truth, sample.landmarks)
    maps, own = [], None
    for begins, (first, second) in values.items():
        maps.append(Matched(begins, "nearest neighbour", nearest(second[pair.second.chosen], first)))
        if begins == FEATURES:
            maps.append(_through_map(pair, first, second, temperature))
        begun = _begun(pair, first, second)
        for upsampling in UPSAMPLINGS:
            made, carries = _grown(pair, begins, begun, sample.model_copy(update={"upsampling": upsampling}))
            maps.append(made)
            if begins == FEATURES and upsampling == sample.upsampling:
                own = len(maps) - 1, carries
    assert own is not None
    matches, random = _measured(pair, maps, mirror)
    return MatchedPair(pair, matches[own[0]], own[1], matches, random)


def _begun(pair: Pair, first: Floats, second: Floats) -> Ids:
    """Maps the chosen points of the second surface to those of the first by the nearest neighbour."""
    return nearest(second[pair.second.chosen], first[pair.first.chosen])


def _points(side: Examined) -> Points:
    areas, functions = torch.from_numpy(side.chosen_areas), torch.from_numpy(side.functions[side.chosen])
    return Points(areas.float(), functions.float())


def _grown(pair: Pair, begins: str, begun: Ids, sample: SurfaceSample) -> tuple[Matched, Tensor]:
    carries = upsampled(_points(pair.first), _points(pair.second), begun, sample)
    return Matched(begins, f"{sample.upsampling} upsampling", _vertices(pair, carries)), carries


def _through_map(pair: Pair, first: Floats, second: Floats, temperature: float) -> Matched:
    """Maps points by the functional map of a softmax over the similarity of features, as training aligns it."""
    alike = torch.from_numpy(second[pair.second.chosen] @ first[pair.first.chosen].T / temperature).float()
    num = pair.first.functions.shape[1]
    carries = functional_map(_points(pair.first), _points(pair.second), alike.softmax(-1), num)
    return Matched(FEATURES, "functional map", _vertices(pair, carries))


def _vertices(pair: Pair, carries_KK: Tensor) -> Ids:
    """Returns the vertices of the first surface that a functional map gives the chosen points of the second."""
    whole = Points(torch.empty(0), torch.from_numpy(pair.first.functions).float())
    return point_map(whole, _points(pair.second), carries_KK)


def _known(pair: Pair, truth: Ids) -> Ids:
    """Returns indices of those chosen points of the second surface whose true vertex on the first surface is known."""
    return np.flatnonzero(truth[pair.second.chosen] >= 0)


def _to_landmarks(pair: Pair, truth: Ids, num: int) -> tuple[Floats, Floats]:
    """Returns distances [V, num] on each surface to landmarks, whose true correspondence is given."""
    given = pair.second.chosen[_known(pair, truth)[:num]]
    return distances(pair.first.surface, truth[given]).T, distances(pair.second.surface, given).T


def _measured(pair: Pair, maps: list[Matched], mirror: str | None) -> tuple[tuple[Matched, ...], float | None]:
    """Returns the maps with their errors, and the mean error of a vertex drawn by area."""
    if pair.truth is None or not len(known := _known(pair, pair.truth)[:MEASURED]):
        return tuple(maps), None
    truth, first = pair.truth[pair.second.chosen[known]], pair.first
    lengths = distances(first.surface, truth)
    row = np.arange(len(truth))
    image = None if mirror is None else mirror_images(first.surface.vertices, "xyz".index(mirror))
    measured = []
    for one in maps:
        vertices = one.vertices[known]
        errors = lengths[row, vertices]
        # From a mirror image to the true vertex it is as far as from the vertex to the true one's image.
        mirrored = None if image is None else np.minimum(errors, lengths[row, image[vertices]])
        measured.append(Matched(one.begins, one.by, one.vertices, errors, mirrored))
    return tuple(measured), float((lengths @ first.spectrum.areas).mean())


def mirror_images(vertices: Floats, axis: int) -> Ids:
    """Returns for each vertex the vertex nearest to its mirror image, about the middle along an axis."""
    middle = (vertices[:, axis].max() + vertices[:, axis].min()) / 2
    reflected = vertices.copy()
    reflected[:, axis] = 2 * middle - reflected[:, axis]
    return nearest(reflected, vertices)


def carried(whole: Pair, own: Matched) -> Iterator[tuple[str, Examined, Floats]]:
    """Yields name, surface and, for each vertex, the place [V, 3] on the first surface that gives its colour."""
    places = whole.first.surface.vertices
    yield "first", whole.first, places
    near = nearest(whole.second.surface.vertices, whole.second.surface.vertices[whole.second.chosen])
    yield "second, by the map", whole.second, places[own.vertices[near]]
    if whole.truth is not None:
        true = places[np.maximum(whole.truth, 0)].copy()
        true[whole.truth < 0] = np.nan
        yield "second, truly", whole.second, true
