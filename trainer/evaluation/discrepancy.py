"""Distances between two sets of points that are computed from the distances between their points."""

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.points import as_pair

MEDIAN_POINTS = 1_000
"""Points of each set that the median distance is computed from."""


def energy_distance(x: NDArray[np.floating], y: NDArray[np.floating], *, paired: bool = False) -> float:
    """Unbiased estimate of 2 E|X - Y| - E|X - X'| - E|Y - Y'|, in units of the points: no point is compared with
    itself.

    The expectation is 0 for two sets of one distribution, so the result can be negative. Source: Székely and Rizzo,
    "Energy statistics: a class of statistics based on distances", 2013, equation 2.

    Args:
        x: [N, ...] points, flattened to [N, F]; N >= 2.
        y: [M, ...] points with the same F; M >= 2.
        paired: whether point i of both sets is made of the same draw, so that those two are not independent: they are
            not compared, and M = N.
    """
    x, y = as_pair(x, y)
    between = _distances(x, y)
    cross = _mean_of_pairs(between) if paired else float(between.mean())
    return 2 * cross - _mean_of_pairs(_distances(x, x)) - _mean_of_pairs(_distances(y, y))


def maximum_mean_discrepancy(
    x: NDArray[np.floating], y: NDArray[np.floating], bandwidths: tuple[float, ...] | None = None
) -> float:
    """Squared maximum mean discrepancy under a mean of Gaussian kernels exp(-|x - y|^2 / (2 s^2)).

    The expectation is 0 for two sets of one distribution, so the result can be negative. Source: Gretton et al., "A
    kernel two-sample test", 2012, equation 3 (unbiased) and section 8 (median).

    Args:
        x: [N, ...] points, flattened to [N, F]; N >= 2.
        y: [M, ...] points with the same F; M >= 2.
        bandwidths: the values of s, above 0; None: the median distance between points of both sets.
    """
    x, y = as_pair(x, y)
    if bandwidths is None:
        both = np.concatenate([x[:MEDIAN_POINTS], y[:MEDIAN_POINTS]])
        bandwidths = (float(np.median(_distances(both, both)[np.triu_indices(len(both), 1)])),)
    if not bandwidths or not all(0 < bandwidth < np.inf for bandwidth in bandwidths):
        raise ValueError(f"bandwidths: {bandwidths} are not all above 0; give them, or points that differ")

    def kernel(distances: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.mean([np.exp(-0.5 * (distances / bandwidth) ** 2) for bandwidth in bandwidths], axis=0)

    within = sum(_mean_of_pairs(kernel(_distances(points, points))) for points in (x, y))
    return float(within - 2 * kernel(_distances(x, y)).mean())


def _distances(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(x, y), dtype=np.float64)


def _mean_of_pairs(values: NDArray[np.float64]) -> float:
    """Mean of a matrix [N, N] without its diagonal."""
    return float((values.sum() - np.trace(values)) / (len(values) * (len(values) - 1)))
