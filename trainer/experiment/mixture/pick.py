"""The mix that is projected best."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import comb

import numpy as np

from trainer.experiment.mixture.fit import Projection
from trainer.experiment.mixture.plan import Mix, simplex

STEPS = 20
"""A share changes by 1 over this number."""
MOST_SHOWN = 250
"""Mixes that are all projected where the sources have no more: two or three sources."""


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
        """The logarithm of a mix at another size."""
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
        found = []
        for giver, share in enumerate(mix):
            for taker in range(len(mix)):
                if giver != taker and share > 0:
                    moved, new = min(share, 1 / STEPS), list(mix)
                    new[giver], new[taker] = round(share - moved, 9), round(mix[taker] + moved, 9)
                    found.append(tuple(new))
        return found
