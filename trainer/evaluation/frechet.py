"""The distance between Gaussians fitted to two sets."""

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.fidelity.gaussian import Gaussian, gaussian_distance
from trainer.evaluation.points import as_pair


def frechet_distance(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Returns the :func:`gaussian_distance` between Gaussians fitted to two sets of points.

    Two small sets of one distribution have a distance above 0: compare with the distance between two sets of real
    examples of the same sizes.

    Args:
        x: [N, ...] points, flattened to [N, F]; N >= 2.
        y: [M, ...] points with the same F; M >= 2.

    Returns:
        The distance, 0 or more, in squared units of the points.

    Raises:
        ValueError: if a set has fewer than two points, the numbers of features differ, or a value is not finite.
    """
    x, y = as_pair(x, y)
    return gaussian_distance(Gaussian.of(x), Gaussian.of(y))
