"""Gaussians fitted to features, which may come block by block on many ranks, and their distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal distribution: mean float64 [F] and covariance float64 [F, F]."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def of(cls, points: NDArray[np.float64]) -> Gaussian:
        """Fits one to points [N, F], N >= 2; the covariance is unbiased."""
        return cls(points.mean(0), np.atleast_2d(np.cov(points, rowvar=False)))


def gaussian_distance(x: Gaussian, y: Gaussian) -> float:
    """Squared 2-Wasserstein distance between Gaussians, known as the Fréchet distance, in squared units of the points.

    |mean_x - mean_y|^2 + tr(C_x + C_y - 2 (C_x^1/2 C_y C_x^1/2)^1/2), with the roots taken by symmetric eigenvalues, so
    that no imaginary part can appear, and covariances without full rank need no correction. Source: Dowson and Landau,
    "The Fréchet distance between multivariate normal distributions", 1982, equation 16.
    """
    values, vectors = np.linalg.eigh(x.covariance)
    root_x = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    overlap = np.sqrt(np.linalg.eigvalsh(root_x @ y.covariance @ root_x).clip(min=0)).sum()
    shift = np.square(x.mean - y.mean).sum()
    return max(0.0, float(shift + np.trace(x.covariance) + np.trace(y.covariance) - 2 * overlap))


LANES = 8
"""Sums that are kept apart until the end: block b is counted in sum b mod 8. Where the number of ranks divides it, each
sum belongs to one rank, so that every number is added in the same order on 1, 2, 4 and 8 ranks."""


class Moments:
    """Sums of features and of their products, in float64.

    A 1 is appended to each feature vector, so that one matrix product gives count, sums and products. Ranks take the
    blocks in turn: rank r of W has the blocks r, r + W, r + 2 W, ... Mean and covariance are then bitwise equal on 1,
    2, 4 and 8 ranks, and equal up to rounding on others.
    """

    def __init__(self) -> None:
        self._lanes: dict[int, Tensor] = {}

    def add(self, features: Tensor, block: int) -> None:
        """Adds the features [B, F] of the block with this number in the set, on the device that holds the sums."""
        extended = torch.cat([features.double(), features.new_ones(len(features), 1, dtype=torch.float64)], dim=1)
        size = extended.shape[1]
        if block % LANES not in self._lanes:
            self._lanes[block % LANES] = extended.new_zeros(size, size)
        self._lanes[block % LANES].addmm_(extended.T, extended)

    def fit(self, features: int, device: torch.device, group: dist.ProcessGroup | None = None) -> tuple[Gaussian, int]:
        """The Gaussian of all F features, its covariance unbiased, and the number of examples; collective."""
        total = torch.zeros(features + 1, features + 1, dtype=torch.float64, device=device)
        for lane in range(LANES):
            sums = self._lanes.get(lane)
            if group is not None:
                sums = torch.zeros_like(total) if sums is None else sums.clone()
                dist.all_reduce(sums, group=group)
            if sums is not None:
                total += sums
        sums_FF = total.cpu().numpy()
        count = int(sums_FF[-1, -1])
        if count < 2:
            raise ValueError(f"features: a covariance of {count} examples is not defined; give two or more")
        if not np.isfinite(sums_FF).all():
            raise ValueError("features: some are not finite; look at the examples before measuring them")
        mean = sums_FF[-1, :-1] / count
        covariance = (sums_FF[:-1, :-1] - count * np.outer(mean, mean)) / (count - 1)
        return Gaussian(mean, covariance), count
