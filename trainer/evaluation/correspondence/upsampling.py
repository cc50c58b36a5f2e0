"""Maps between surfaces made finer: from a point map to a functional map of more eigenfunctions, and back.

Shape suffixes: N points of the second surface, M points of the first, K eigenfunctions, D values of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe.ot import sinkhorn, squared_euclidean
from trainer.config.sample import SurfaceSample

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Points:
    """Points of a surface that maps are made between.

    Attributes:
        areas: float32 [N], of what is nearest to each, together 1.
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
    """[num, num] from functions on the first surface to functions on the second that a plan of rows of 1 carries."""
    return second.spectral(plan_NM @ first.functions[:, :num], num)


def upsampled(first: Points, second: Points, begun: Ids, settings: SurfaceSample) -> Tensor:
    """The functional map of all K eigenfunctions [K, K] that a point map grows into, some eigenfunctions at a time.

    `begun` are points of the first surface, int64 [N]. Each step makes points of functions by nearest neighbours
    (Melzi et al., "ZoomOut", 2019, equation 5), or by the rows of an entropic transport plan of the areas.
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
    """Points of both surfaces by the eigenfunctions of the first: [N, K] by what is carried, and [M, K]."""
    num = len(carries_KK)
    return second.functions[:, :num] @ carries_KK, first.functions[:, :num]


def _hard(chosen: Sequence[int] | Ids, columns: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.as_tensor(chosen), columns).float()
