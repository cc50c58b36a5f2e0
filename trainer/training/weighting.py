"""Weights of pairs, and how far they shift a distribution, over all micro batches of all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.flow.coupling.protocol import gathered

FEW = 0.1
"""Effective share of a batch's pairs below which gradients are noise."""


def relative_weights(log_weights: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Weights [B] of each micro batch, of mean 1 over the global batch; collective, unless all are equal (None)."""
    given = [values for values in log_weights if values is not None]
    if not given:
        return list(log_weights)
    values = torch.cat(given).double()
    total = torch.logsumexp(gathered(torch.logsumexp(values, 0)), 0)
    log_mean = total - torch.tensor(float(len(values) * dist.get_world_size()), dtype=total.dtype).log()
    return [(piece.double() - log_mean).exp().to(piece.dtype) for piece in given]


def effective_share(weights: Sequence[Tensor | None]) -> dict[str, float]:
    """``effective_share``, (sum w)^2 / (N sum w^2) of N pairs, in (0, 1]; collective; empty without weights."""
    given = [values for values in weights if values is not None]
    if not given:
        return {}
    mean_square = torch.cat(given).double().square().mean()
    dist.all_reduce(mean_square)
    return {"effective_share": dist.get_world_size() / float(mean_square)}


def few_count(share: float) -> str | None:
    """One line about an effective share so small that gradients are noise; None if it is larger."""
    if share >= FEW:
        return None
    return (
        f"only {share:.1%} of the pairs count (effective_share); a larger epsilon, share or marginal_weight of "
        "flow.coupling weighs them more evenly"
    )


def weighted_mean(losses: Sequence[Tensor], log_weights: Sequence[Tensor | None]) -> float:
    """Mean of losses [B], each by its weight (None everywhere: plain), over all ranks; collective."""
    values = torch.cat(list(losses)).double()
    given = [weights for weights in log_weights if weights is not None]
    logs = torch.cat(given).double() if given else torch.zeros_like(values)
    largest = logs.max() if len(logs) else logs.new_tensor(-torch.inf)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    weights = (logs - largest).exp()
    sums = torch.stack([(weights * values).sum(), weights.sum()])
    dist.all_reduce(sums)
    return float(sums[0] / sums[1])


LARGE = 0.1
"""A tilt above this share of the standard deviation, or of the variance, is large unless chance explains it."""
CHANCES = 3.0
"""Multiples of the shift by chance that are added to `LARGE`."""


@dataclass(frozen=True)
class Tilt:
    """The shift of the mean and variance of points by their weights.

    The effective share of the pairs does not show it. Weights that are independent of the points leave both moments as
    they are, however uneven they are. Weights that are nearly equal can remove a small mode.

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
        """Whether the shift of the mean or of the variance is large, and not by chance."""
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


def tilts_of(
    weighted: Sequence[Mapping[str, Tensor]], weights: Sequence[Tensor | None], ranks: dist.ProcessGroup | None = None
) -> dict[str, Tilt]:
    """The tilt of each kind of weighted points, by name; empty without weights, and collective only with them."""
    given = [values for values in weights if values is not None]
    if not given or not weighted:
        return {}
    return {name: tilt([points[name] for points in weighted], given, ranks) for name in weighted[0]}


def tilt_figures(tilts: Mapping[str, Tilt]) -> dict[str, float]:
    """The metrics `NAME_mean_tilt` and `NAME_variance_tilt` of each tilt."""
    return {
        f"{name}_{moment}_tilt": value
        for name, each in tilts.items()
        for moment, value in (("mean", each.mean), ("variance", each.variance))
    }


def tilt_cautions(tilts: Mapping[str, Tilt]) -> dict[str, str]:
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
