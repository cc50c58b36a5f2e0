"""How far the weights of pairs move the distribution of what they weigh, over all micro batches of all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

LARGE = 0.1
"""A tilt of this share of the standard deviation, or of the variance, is large if chance does not explain it."""
CHANCES = 3.0
"""Multiples of what chance does that are added to `LARGE`."""


@dataclass(frozen=True)
class Tilt:
    """What weights do to the mean and to the variance of points.

    The effective share of the pairs does not tell. Weights that are independent of the points leave both moments as
    they are, however uneven they are; weights that are nearly equal can take a small mode away.

    Attributes:
        mean: distance of the weighted mean from the plain one, over the plain standard deviation.
        variance: weighted variance over the plain one, less 1. A variance is a mean squared distance from the mean.
        chance_of_mean: root mean square of `mean` if the same weights were dealt out to the same points at random.
        chance_of_variance: the same of `variance`.
    """

    mean: float
    variance: float
    chance_of_mean: float
    chance_of_variance: float

    @property
    def large(self) -> bool:
        """Whether one of them is large, and not by chance."""
        return (
            self.mean > LARGE + CHANCES * self.chance_of_mean
            or abs(self.variance) > LARGE + CHANCES * self.chance_of_variance
        )


def tilt(points: Sequence[Tensor], weights: Sequence[Tensor], ranks: dist.ProcessGroup | None = None) -> Tilt:
    """Weighted moments of points [B, *D] against plain ones; collective over ranks with different points (None: one
    alone).

    Weights [B] are at least 0 and not all 0; the tilt is 0 where all points are the same.
    """
    rows = [part.flatten(1).double() for part in points]
    masses = [part.double() for part in weights]
    plain, weighted = torch.zeros_like(rows[0][0]), torch.zeros_like(rows[0][0])
    counts = plain.new_zeros(3)
    for row, mass in zip(rows, masses, strict=True):
        plain += row.sum(0)
        weighted += mass @ row
        counts += torch.stack([torch.ones_like(mass), mass, mass.square()]).sum(1)
    num, total, square, *_ = sums = _summed(torch.cat([counts, plain, weighted]), ranks)
    mean, weighted_mean = (part / of for part, of in zip(sums[3:].chunk(2), (num, total), strict=True))
    moments = plain.new_zeros(3)
    for row, mass in zip(rows, masses, strict=True):
        distance = (row - mean).square().sum(1)
        moments += torch.stack([distance, mass * distance, distance.square()]).sum(1)
    moments = _summed(moments, ranks)
    variance, fourth = moments[0] / num, moments[2] / num
    shift = (weighted_mean - mean).square().sum()
    weighted_variance = moments[1] / total - shift
    # Variance of the mean of num values, each taken as often as its weight over the mean weight says, less that mean.
    chance = ((num * square / total.square() - 1).clamp_min(0) / num).sqrt()
    uneven = (fourth / variance.square() - 1).clamp_min(0).sqrt()
    moved = torch.stack([(shift / variance).sqrt(), weighted_variance / variance - 1, chance, chance * uneven])
    return Tilt(*torch.where(variance > 0, moved, torch.zeros_like(moved)).tolist())


def tilts(
    weighted: Sequence[Mapping[str, Tensor]], weights: Sequence[Tensor | None], ranks: dist.ProcessGroup | None = None
) -> dict[str, Tilt]:
    """The tilt of all that pairs are made of, by name; nothing without weights; collective unless there are none."""
    given = [values for values in weights if values is not None]
    if not given or not weighted:
        return {}
    return {name: tilt([points[name] for points in weighted], given, ranks) for name in weighted[0]}


def figures(tilts: Mapping[str, Tilt]) -> dict[str, float]:
    """`NAME_mean_tilt` and `NAME_variance_tilt` of each, as the metrics tell them."""
    return {
        f"{name}_{moment}_tilt": value
        for name, each in tilts.items()
        for moment, value in (("mean", each.mean), ("variance", each.variance))
    }


def cautions(tilts: Mapping[str, Tilt]) -> dict[str, str]:
    """One line about the first large tilt, under the name ``tilt``; none if no tilt is large."""
    for name, each in tilts.items():
        if each.large:
            return {
                "tilt": f"the weights of the pairs move the mean of the {name} by {each.mean:.2f} of a standard "
                f"deviation and change its variance by {each.variance:+.0%} ({name}_mean_tilt, {name}_variance_tilt), "
                "and the network learns this distribution; a larger epsilon, share or marginal_weight of "
                "flow.coupling moves it less"
            }
    return {}


def _summed(values: Tensor, ranks: dist.ProcessGroup | None) -> Tensor:
    if ranks is not None:
        dist.all_reduce(values, group=ranks)
    return values
