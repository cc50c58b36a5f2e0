"""Means over seeds, and how much of a difference between two simulators is chance."""

from collections.abc import Sequence
from math import sqrt
from statistics import mean, stdev
from typing import NamedTuple


class Sample(NamedTuple):
    """What one side measured, one figure a seed.

    Args:
        values: At least one.
    """

    values: Sequence[float]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return mean(self.values)

    @property
    def error(self) -> float:
        """Standard error of the mean; 0 for one seed, which does not tell."""
        return stdev(self.values) / sqrt(len(self.values)) if len(self.values) > 1 else 0.0

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.error:.1f}"


def difference(ours: Sample, theirs: Sample) -> tuple[float, float]:
    """How far our mean is off theirs, as a share of it, and the standard error of that.

    Where both sides have a figure for each seed, the error is that of the differences by seed, since the messages of a
    seed are the same on both sides.
    """
    share = ours.mean / theirs.mean - 1
    if len(ours.values) != len(theirs.values):
        return share, sqrt(ours.error**2 + theirs.error**2) / theirs.mean
    differences = [one - other for one, other in zip(ours.values, theirs.values, strict=True)]
    return share, Sample(differences).error / theirs.mean
