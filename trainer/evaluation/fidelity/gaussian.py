"""The distance between Gaussians that are fitted to sets of features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
