"""Checks of sets of points before they are compared."""

import numpy as np
from numpy.typing import NDArray


def as_points(name: str, values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns a set of points as a matrix [N, F].

    Args:
        name: of the set in an error message.
        values: [N, ...] points, N >= 2.

    Raises:
        ValueError: if there are fewer than two points, or a value is not finite.
    """
    points = np.asarray(values, dtype=np.float64)
    if points.ndim < 2 or len(points) < 2:
        raise ValueError(f"{name}: shape {points.shape} holds fewer than two points; give [N, ...] with N >= 2")
    points = points.reshape(len(points), -1)
    if not np.isfinite(points).all():
        raise ValueError(f"{name}: it contains values that are not finite; look at the samples before measuring them")
    return points


def as_pair(x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns two sets of points, named x and y in error messages, as matrices [N, F] and [M, F].

    Raises:
        ValueError: if a set has fewer than two points, the numbers of features differ, or a value is not finite.
    """
    x, y = as_points("x", x), as_points("y", y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"y: {y.shape[1]} features differ from the {x.shape[1]} of x; compare like with like")
    return x, y
