"""Figures of a policy that builds objects, for several preferences: rewards, Pareto front, indicators.

Rewards are to be large. Shape suffixes: N objects or points, K objectives or rewards, W weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""[N, K] rewards."""


def front(points: Points) -> NDArray[np.int64]:
    """Numbers of the points [N, K] that no other dominates: none is as good by every reward and better by one.

    In falling order of the first reward, then of the second, and so on; of equal points the first alone.
    """
    order = np.lexsort((np.arange(len(points)), *(-points.T[::-1])))
    indices: list[int] = []
    while order.size:
        best, order = int(order[0]), order[1:]
        indices.append(best)
        order = order[(points[order] > points[best]).any(axis=1)]
    return np.array(indices, dtype=np.int64)


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


BEST = 10
"""Distinct objects of a preference that count as its best."""


class Exact(NamedTuple):
    """Comparison of a policy, for one preference, with the wanted distribution, all of whose objects are known.

    Attributes:
        wanted: mean reward under the wanted distribution.
        wanted_rewards: [K] means of the objectives under it.
        total_variation: distance between it and the policy's own distribution.
        log_partition_error: of the network's log Z, absolute.
    """

    wanted: float
    wanted_rewards: tuple[float, ...]
    total_variation: float
    log_partition_error: float


@dataclass(frozen=True, eq=False)
class OfPreference:
    """Objects that were built for one preference.

    Attributes:
        weights: [K] of the objectives.
        rewards: [N, K] by each objective.
        reward: mean by the preference, not raised to the exponent.
        best: the same of the best distinct objects.
        diversity: mean distance between any two of these.
        even: mean reward, by the preference, of objects built by uniform choices.
        exact: comparison with the wanted distribution; None: there are too many objects to know it.
    """

    weights: tuple[float, ...]
    rewards: Points = field(repr=False)
    reward: float
    best: float
    diversity: float
    even: float
    exact: Exact | None = None

    @property
    def means(self) -> list[float]:
        """Mean of each objective, [K]."""
        return self.rewards.mean(axis=0).tolist()


@dataclass(frozen=True, eq=False)
class ParetoFigures:
    """The figures of a policy, for a lattice of preferences.

    Attributes:
        rewards_are: description of the rewards; empty if they are the objectives themselves.
        even: [N, K] rewards of objects built by uniform choices, as many as all preferences have together.
        reachable: [N, K] rewards of all objects; None: there are too many.
        has_picture: whether the run's own picture adds to the page: it shows which cells of a grid are built.
    """

    names: tuple[str, ...]
    rewards_are: str
    checkpoint: str
    num: int
    seed: int
    exponent: float
    preferences: Sequence[OfPreference]
    even: Points = field(repr=False)
    reachable: Points | None = field(repr=False, default=None)
    has_picture: bool = False

    @cached_property
    def built(self) -> Points:
        """Rewards of all objects that were built, [N, K]."""
        return np.concatenate([one.rewards for one in self.preferences])

    @cached_property
    def indicators(self) -> dict[str, dict[str, float]]:
        """Hypervolume, R2 and size of the front: ``built``, of ``even`` choices, of ``all`` where they are known."""
        weights = np.array([one.weights for one in self.preferences])
        sets = {"built": self.built, "even": self.even, "all": self.reachable}
        return {
            name: {"hypervolume": hypervolume(points), "r2": r2(points, weights), "front": len(front(points))}
            for name, points in sets.items()
            if points is not None
        }

    def mean(self, figure: Callable[[OfPreference], float | None]) -> float | None:
        """Mean of a figure over the preferences; None where it is not known."""
        values = [value for value in map(figure, self.preferences) if value is not None]
        return fmean(values) if values else None

    def to_dict(self) -> dict[str, Any]:
        """The figures as they are written as JSON."""
        return {
            "format": "flowfabric.objects/1",
            "checkpoint": self.checkpoint,
            "objectives": list(self.names),
            "num": self.num,
            "seed": self.seed,
            "exponent": self.exponent,
            "best": BEST,
            "indicators": self.indicators,
            "preferences": [
                {
                    "weights": list(one.weights),
                    "rewards": dict(zip(self.names, one.means, strict=True)),
                    "reward": one.reward,
                    "best_reward": one.best,
                    "diversity": one.diversity,
                    "even_reward": one.even,
                    "wanted_reward": one.exact and one.exact.wanted,
                    "total_variation": one.exact and one.exact.total_variation,
                    "log_partition_error": one.exact and one.exact.log_partition_error,
                }
                for one in self.preferences
            ],
        }

    def columns(self) -> dict[str, Callable[[OfPreference], float | None]]:
        """Figures of the columns of a table by heading, without those that no preference has."""
        columns: dict[str, Callable[[OfPreference], float | None]] = {
            "reward": lambda one: one.reward,
            "wanted": lambda one: one.exact and one.exact.wanted,
            "even": lambda one: one.even,
            f"best {BEST}": lambda one: one.best,
            "diversity": lambda one: one.diversity,
            "TV": lambda one: one.exact and one.exact.total_variation,
            "log Z off": lambda one: one.exact and one.exact.log_partition_error,
        }
        return {name: figure for name, figure in columns.items() if self.mean(figure) is not None}


def preference(one: OfPreference) -> str:
    """The weights of a preference in a few letters."""
    return " ".join(f"{weight:.3g}" for weight in one.weights)


def cell(value: float | None) -> str:
    """A figure as a table shows it; empty where there is none."""
    return "" if value is None else f"{value:.4f}"
