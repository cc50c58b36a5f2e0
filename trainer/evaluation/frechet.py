"""The distance between Gaussians fitted to two sets."""

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.points import as_pair


def frechet_distance(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Returns the squared 2-Wasserstein distance between Gaussians fitted to two sets of points.

    |mean_x - mean_y|^2 + tr(C_x + C_y - 2 (C_x^1/2 C_y C_x^1/2)^1/2), with the roots taken by symmetric eigenvalues,
    so that no imaginary part can appear. Covariances are unbiased. Two small sets of one distribution have a distance
    above 0: compare with the distance between two sets of real examples of the same sizes.

    Source: Dowson and Landau, "The Fréchet distance between multivariate normal distributions", 1982, equation 16.

    Args:
        x: [N, ...] points, flattened to [N, F]; N >= 2.
        y: [M, ...] points with the same F; M >= 2.

    Returns:
        The distance, 0 or more, in squared units of the points.

    Raises:
        ValueError: if a set has fewer than two points, the numbers of features differ, or a value is not finite.
    """
    x, y = as_pair(x, y)
    covariance_x, covariance_y = (np.atleast_2d(np.cov(points, rowvar=False)) for points in (x, y))
    values, vectors = np.linalg.eigh(covariance_x)
    root_x = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    overlap = np.sqrt(np.linalg.eigvalsh(root_x @ covariance_y @ root_x).clip(min=0)).sum()
    shift = np.square(x.mean(0) - y.mean(0)).sum()
    return max(0.0, float(shift + np.trace(covariance_x) + np.trace(covariance_y) - 2 * overlap))
