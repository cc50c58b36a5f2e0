"""The Pareto front of points, and numbers that say how far it reaches. All rewards are to be large.

Shape suffixes: N points, K rewards, W weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""[N, K] rewards."""


def front(points: Points) -> NDArray[np.int64]:
    """Numbers of the points [N, K] that no other dominates: none is as good by every reward and better by one.

    In falling order of the first reward, then of the second, and so on; of equal points the first alone.
    """
    order = np.lexsort((np.arange(len(points)), *(-points.T[::-1])))
    found: list[int] = []
    while order.size:
        best, order = int(order[0]), order[1:]
        found.append(best)
        order = order[(points[order] > points[best]).any(axis=1)]
    return np.array(found, dtype=np.int64)


def hypervolume(points: Points) -> float:
    """Volume of what points [N, K] dominate above 0 by every reward; exact, for any number of rewards.

    The volume is cut into slices by the last reward. The time grows with the points of the front to the power K - 1:
    thousands of them are possible for two rewards, about a thousand for three, a hundred for four. Source: Zitzler and
    Thiele, "Multiobjective Optimization Using Evolutionary Algorithms", 1998 (the indicator).
    """
    points = points[(points > 0).all(axis=1)]
    return _volume(points[front(points)]) if len(points) else 0.0


def _volume(points: Points) -> float:
    """Volume of what points above 0 dominate; some may be dominated themselves."""
    num = points.shape[1]
    if num == 1:
        return float(points.max())
    if num == 2:
        points = points[np.lexsort((-points[:, 1], -points[:, 0]))]
        reached = np.maximum.accumulate(points[:, 1])
        return float(points[:, 0] @ np.diff(reached, prepend=0.0))
    points = points[np.argsort(-points[:, -1], kind="stable")]
    depths = points[:, -1] - np.append(points[1:, -1], 0.0)
    slices = (
        depth * _volume(points[:end, :-1][front(points[:end, :-1])]) for end, depth in enumerate(depths, 1) if depth
    )
    return float(sum(slices))


def r2(points: Points, weights: Points) -> float:
    """Distance of points [N, K] from the best that each reward can be, 1, over preferences [W, K]; small is good.

    The sum over the preferences w of the smallest of max_i w_i |1 - r_i(x)| of all points x. It is divided by the
    Frobenius norm of all weights, as in the published code of the source, and not by their number. Source: Hansen and
    Jaszkiewicz, "Evaluating the Quality of Approximations to the Non-Dominated Set", 1998; Jain et al.,
    "Multi-Objective GFlowNets", 2023.
    """
    distant = np.abs(1 - points)
    nearest = [float((one * distant).max(axis=1).min()) for one in weights]
    return sum(nearest) / float(np.linalg.norm(weights))


def best_distinct(values: NDArray[np.float64], objects: NDArray[np.int64], num: int) -> NDArray[np.int64]:
    """Numbers of the best objects int [N, S] by their values [N], at most `num`; equal objects count once."""
    order = np.argsort(-values, kind="stable")
    _, first = np.unique(objects[order], axis=0, return_index=True)
    return order[np.sort(first)[:num]]


def mean_pairwise(distances: NDArray[np.float64]) -> float:
    """Mean distance between two different objects by a matrix [N, N]; 0 for one alone."""
    num = len(distances)
    return float(distances.sum()) / (num * (num - 1)) if num > 1 else 0.0
