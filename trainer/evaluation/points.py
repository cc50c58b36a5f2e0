"""Checks of sets of points before they are compared."""

import numpy as np
from numpy.typing import NDArray


def as_points(name: str, values: NDArray[np.floating]) -> NDArray[np.float64]:
    """A set of points [N, ...], N >= 2 and finite, as a matrix [N, F]; an error message has its name."""
    points = np.asarray(values, dtype=np.float64)
    if points.ndim < 2 or len(points) < 2:
        raise ValueError(f"{name}: shape {points.shape} holds fewer than two points; give [N, ...] with N >= 2")
    points = points.reshape(len(points), -1)
    if not np.isfinite(points).all():
        raise ValueError(f"{name}: it contains values that are not finite; look at the samples before measuring them")
    return points


def as_pair(x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two sets of points, named x and y in error messages, as matrices [N, F] and [M, F]."""
    x, y = as_points("x", x), as_points("y", y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"y: {y.shape[1]} features differ from the {x.shape[1]} of x; compare like with like")
    return x, y
