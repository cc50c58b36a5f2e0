"""A measure of pilots as a function of shares and distance, its projection to a larger size, and the best mix.

Kang, Just, Sahu, Jia, "Performance scaling via optimal transport: enabling data selection from partially revealed
sources", arXiv 2307.02460: at two sizes N_0 < N_1 the measure is fitted over the mixes, and it is linear in log N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Mix = tuple[float, ...]
"""Shares of the sources that are mixed, in their order."""
STEPS = 20
"""A share changes by 1 over this number."""
MOST_SHOWN = 250
"""Mixes that are all projected where the sources have no more: two or three sources."""
MIXES_OF_A_PARAMETER = 3
MOST_AMPLIFIED = 10.0
RIDGES = (1e-6, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Penalties that are tried, times the number of mixes, of features of variance 1."""
FEATURES: dict[str, Callable[[Values, Values], list[Values]]] = {
    "distance": lambda _, distance: [distance],
    "distance and shares": lambda shares, distance: [distance, *shares],
    "shares times distance": lambda shares, distance: [distance, *shares, *(shares * distance)],
    "squares of shares": lambda shares, distance: [distance, *shares, *(shares * distance), *shares**2],
}
"""Nested models: features of the shares but the last, [M - 1, P], which the others decide, and of distances [P]."""


def amplification(sizes: tuple[int, int], target: int) -> float:
    """Returns the largest factor by which the projection from `sizes` to `target` multiplies an error of the fits."""
    small, large = sizes
    return (math.log(target / small) + math.log(target / large)) / math.log(large / small)


@dataclass(frozen=True)
class Ridge:
    """One fit at one size: intercept, and coefficients of features shifted and scaled to variance 1."""

    intercept: float
    coefficients: Values
    shift: Values
    scale: Values

    def at(self, features: Values) -> Values:
        """Fitted values [P] of features [P, F]."""
        return self.intercept + (features - self.shift) / self.scale @ self.coefficients


def ridge(features: Values, values: Values, penalty: float) -> tuple[Ridge, Values]:
    """Fits values [P] by features [P, F]; returns the fit, and the leave-one-out error of each mix, [P]."""
    num = len(values)
    shift, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    x = (features - shift) / scale
    inverse = np.linalg.inv(x.T @ x + penalty * num * np.eye(x.shape[1]))
    coefficients = inverse @ x.T @ (values - values.mean())
    leverage = 1 / num + np.einsum("pf,fg,pg->p", x, inverse, x)
    residuals = values - values.mean() - x @ coefficients
    return Ridge(float(values.mean()), coefficients, shift, scale), residuals / np.maximum(1 - leverage, 1e-6)


@dataclass(frozen=True)
class Projection:
    """Fits at two sizes with the same features.

    Attributes:
        features: key of `FEATURES`.
        error: root mean square of the leave-one-out errors, over mixes and both sizes.
    """

    sizes: tuple[int, int]
    features: str
    penalty: float
    fits: tuple[Ridge, Ridge]
    error: float

    def at(self, shares: Values, distances: Values, size: int) -> Values:
        """Values [P] of mixes [P, M] with distances [2, P] at the two sizes, linear in the logarithm of a size."""
        small, large = (
            fit.at(features_of(self.features, shares, own)) for fit, own in zip(self.fits, distances, strict=True)
        )
        beyond = math.log(size / self.sizes[0]) / math.log(self.sizes[1] / self.sizes[0])
        return small + beyond * (large - small)

    def deviation(self, size: int) -> float:
        """Standard deviation of a projected value: the error of the fits times the amplification."""
        return self.error * amplification(self.sizes, size)


def features_of(name: str, shares: Values, distance: Values) -> Values:
    """Features [P, F] of mixes [P, M] and their distances [P]."""
    return np.stack(FEATURES[name](shares[:, :-1].T, distance), axis=1)


def permitted(num_mixes: int, num_sources: int) -> list[str]:
    """Returns the models that have at least three mixes for each parameter; empty: not even the smallest does."""
    distances, shares = np.zeros(1), np.zeros((1, num_sources))
    return [
        name
        for name in FEATURES
        if MIXES_OF_A_PARAMETER * (1 + features_of(name, shares, distances).shape[1]) <= num_mixes
    ]


def projections(shares: Values, distances: Values, values: Values, sizes: tuple[int, int]) -> list[Projection]:
    """Fits values [2, P] of mixes [P, M] with distances [2, P] by each model; least leave-one-out error first."""
    return sorted(
        (fitted(name, shares, distances, values, sizes) for name in permitted(*shares.shape)),
        key=lambda one: one.error,
    )


def fitted(name: str, shares: Values, distances: Values, values: Values, sizes: tuple[int, int]) -> Projection:
    """Fits a model with the penalty of least error on left-out mixes."""
    fits = []
    for penalty in RIDGES:
        small, large = (
            ridge(features_of(name, shares, own), of, penalty) for own, of in zip(distances, values, strict=True)
        )
        error = float(np.sqrt(np.mean(np.square([small[1], large[1]]))))
        fits.append(Projection(sizes, name, penalty, (small[0], large[0]), error))
    return min(fits, key=lambda one: one.error)


def simplex(parts: int, sources: int) -> list[Mix]:
    """All mixes whose shares are multiples of 1 / parts, by falling first share."""
    bars = combinations(range(parts + sources - 1), sources - 1)
    ends = [(-1, *places, parts + sources - 1) for places in bars]
    counts = [tuple(end - begin - 1 for begin, end in pairwise(one)) for one in ends]
    return [tuple(count / parts for count in one) for one in sorted(counts, reverse=True)]


class Search:
    """Projected logarithms of mixes at the target, each computed once; less is better."""

    def __init__(self, projection: Projection, distance: Callable[[Mix, int], float], target: int) -> None:
        self._projection, self._distance, self._target = projection, distance, target
        self.known: dict[Mix, float] = {}

    def at(self, mix: Mix) -> float:
        """The projected logarithm of a mix."""
        if mix not in self.known:
            self.known[mix] = self.at_size(mix, self._target)
        return self.known[mix]

    def at_size(self, mix: Mix, size: int) -> float:
        """Returns the projected logarithm of a mix at another size."""
        distances = np.array([[self._distance(mix, one)] for one in self._projection.sizes])
        return float(self._projection.at(np.array([mix]), distances, size)[0])

    def best(self, starts: Iterable[Mix], progress: Callable[[int], None]) -> Mix:
        """The best of some mixes, improved by moving a part of a share from one source to another while that helps."""
        starts = list(starts)
        if comb(STEPS + len(starts[0]) - 1, STEPS) <= MOST_SHOWN:
            starts += simplex(STEPS, len(starts[0]))
        for mix in starts:
            self.at(mix)
            progress(len(self.known))
        best = min(starts, key=self.at)
        while (better := min(self._neighbours(best), key=self.at)) and self.at(better) < self.at(best):
            best = better
            progress(len(self.known))
        return best

    def _neighbours(self, mix: Mix) -> list[Mix]:
        mixes = []
        for giver, share in enumerate(mix):
            for taker in range(len(mix)):
                if giver != taker and share > 0:
                    moved, new = min(share, 1 / STEPS), list(mix)
                    new[giver], new[taker] = round(share - moved, 9), round(mix[taker] + moved, 9)
                    mixes.append(tuple(new))
        return mixes
