"""The distance between Gaussians fitted to two sets."""

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.fidelity.gaussian import Gaussian, gaussian_distance
from trainer.evaluation.points import as_pair


def frechet_distance(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """:func:`gaussian_distance` between Gaussians fitted to two sets of points [N, ...] and [M, ...], flattened; N, M
    >= 2.

    Two small sets of one distribution have a distance above 0: compare with the distance between two sets of real
    examples of the same sizes.
    """
    x, y = as_pair(x, y)
    return gaussian_distance(Gaussian.of(x), Gaussian.of(y))
