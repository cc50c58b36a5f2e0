"""The time of a collective by formula, and its least-squares fit to measurements, in regimes of size.

A library of collectives changes its protocol with the size: one that is quick to start, then one that fills the links.
In each regime the time of a collective of n ranks and S bytes is

    launch + steps(n) x step + share(n) x S / link rate + S / local rate,

where steps are the rounds of a ring and share is the part of S that passes through a rank's link. The last term is what
a rank copies or adds up itself. Hosts whose GPUs talk through one bridge have n (n - 1) x S / bridge rate in its place:
there the transfers of all ranks wait for each other. Between two regimes the time is interpolated in logarithms.

Regimes, their borders and the last term are those of the least Bayesian information criterion. The fit is of relative
errors, with Huber's loss, so that neither the largest sizes nor a few disturbed measurements decide it.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations, pairwise
from math import exp, log
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import nnls

Last = Literal["local", "bridge", "none"]
"""The last term of the formula; none if all measurements are of one number of ranks, which cannot determine it."""

MOST_REGIMES = 3
_HUBER = 0.05
"""Relative error from which a measurement counts as disturbed."""
_ROUNDS = 8
_TERMS = 4
_POINTS = 3
"""Least measurements for each factor and each border between regimes."""


class Regime(NamedTuple):
    """Sizes in [least, most] bytes, and factors in us: launch, step, byte on the link, byte of the last term."""

    least: int
    most: int
    factors: tuple[float, ...]


class Cost(NamedTuple):
    """The fitted formula of an operation, with its regimes in ascending order of size."""

    op: str
    last: Last
    regimes: tuple[Regime, ...]

    def time_us(self, ranks: int, size_bytes: int) -> float:
        """Returns the time of a collective in microseconds, at any size."""
        number = next((n for n, one in enumerate(self.regimes) if size_bytes <= one.most), len(self.regimes) - 1)
        here = self.regimes[number]
        if number == 0 or size_bytes >= here.least:
            return self._within(here, ranks, size_bytes)
        before = self.regimes[number - 1]
        part = log(size_bytes / before.most) / log(here.least / before.most)
        below, above = self._within(before, ranks, before.most), self._within(here, ranks, here.least)
        return exp((1 - part) * log(below) + part * log(above))

    def _within(self, regime: Regime, ranks: int, size_bytes: int) -> float:
        terms = _terms(self.op, self.last, np.array([ranks]), np.array([size_bytes]))
        return float(terms[0] @ np.array(regime.factors))


class Points(NamedTuple):
    """Measurements of one operation: ranks, bytes and microseconds, [point] each."""

    ranks: np.ndarray
    sizes: np.ndarray
    times_us: np.ndarray

    def where(self, chosen: np.ndarray) -> "Points":
        """Returns the measurements that the mask `chosen` selects, [point]."""
        return Points(*(column[chosen] for column in self))


def least_points(points: Points) -> int:
    """How many measurements a fit needs: some for each factor of one regime."""
    return _POINTS * _factors(points)


def fitted(op: str, points: Points, last: Last | None = None) -> Cost:
    """Returns the formula that fits best, of all regimes and, unless `last` is given, of all last terms.

    Args:
        op: The operation.
        points: At least `least_points` measurements at two sizes or more.
        last: The last term; None: the one that fits best.
    """
    several = len(np.unique(points.ranks)) > 1
    kinds: tuple[Last, ...] = (last,) if last else ("local", "bridge") if several else ("none",)
    return min((_best(op, points, kind) for kind in kinds), key=lambda pair: pair[0])[1]


def without_each(cost: Cost, points: Points) -> Iterator[Cost]:
    """For each measurement, the formula fitted to all others, with the same regimes."""
    for place, size in enumerate(points.sizes.tolist()):
        others = np.arange(len(points.sizes)) != place
        number = next(n for n, one in enumerate(cost.regimes) if size <= one.most)
        old = cost.regimes[number]
        rest = points.where(others & (points.sizes >= old.least) & (points.sizes <= old.most))
        factors, _ = _least_squares(_terms(cost.op, cost.last, rest.ranks, rest.sizes), rest.times_us)
        regimes = list(cost.regimes)
        regimes[number] = old._replace(factors=tuple(factors.tolist()))
        yield cost._replace(regimes=tuple(regimes))


def _best(op: str, points: Points, last: Last) -> tuple[float, Cost]:
    """The criterion and the formula of the best regimes."""
    sizes = np.unique(points.sizes)

    @cache
    def piece(begin: int, end: int) -> tuple[np.ndarray, float]:
        within = points.where((points.sizes >= sizes[begin]) & (points.sizes <= sizes[end - 1]))
        return _least_squares(_terms(op, last, within.ranks, within.sizes), within.times_us)

    candidates: list[tuple[float, Sequence[int]]] = []
    count, factors = len(points.sizes), _factors(points)
    for regimes in range(1, MOST_REGIMES + 1):
        free = regimes * (factors + 1) - 1
        if regimes > 1 and count < _POINTS * free:
            break
        for borders in combinations(range(2, len(sizes) - 1), regimes - 1):
            ends = (0, *borders, len(sizes))
            if regimes > 1 and any(end - begin < 2 for begin, end in pairwise(ends)):
                continue
            loss = sum(piece(begin, end)[1] for begin, end in pairwise(ends))
            candidates.append((count * log(max(loss, 1e-12) / count) + free * log(count), ends))
    criterion, ends = min(candidates)
    cut = [
        Regime(int(sizes[begin]), int(sizes[end - 1]), tuple(piece(begin, end)[0].tolist()))
        for begin, end in pairwise(ends)
    ]
    return criterion, Cost(op, last, tuple(cut))


def _factors(points: Points) -> int:
    """Returns how many factors of a regime the measurements can determine."""
    return _TERMS if len(np.unique(points.ranks)) > 1 else 2


def _least_squares(terms: np.ndarray, times_us: np.ndarray) -> tuple[np.ndarray, float]:
    """Factors, none below 0, of terms [point, term] by relative error, and Huber's loss of the logarithms."""
    relative = terms / times_us[:, None]
    weights = np.ones(len(times_us))
    for _ in range(_ROUNDS):
        factors, _ = nnls(relative * weights[:, None], weights)
        errors = np.abs(relative @ factors - 1)
        weights = np.sqrt(np.minimum(1, _HUBER / np.maximum(errors, 1e-9)))
    off = np.abs(np.log(np.maximum(relative @ factors, 1e-9)))
    return factors, float(np.where(off < _HUBER, off**2 / 2, _HUBER * (off - _HUBER / 2)).sum())


def _terms(op: str, last: Last, ranks: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns the terms that the factors multiply, [point, term]: 1, rounds, bytes on the link, last term."""
    rounds = (2 if op == "all_reduce" else 1) * (ranks - 1)
    share = np.ones(len(ranks)) if op == "broadcast" else rounds / ranks
    launch, nothing = np.ones(len(ranks)), np.zeros(len(ranks))
    if last == "none":
        return np.stack([launch, nothing, share * sizes, nothing], axis=1)
    through = sizes if last == "local" else sizes * ranks * (ranks - 1.0)
    return np.stack([launch, rounds, share * sizes, through], axis=1)
