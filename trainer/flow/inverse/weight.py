"""How much the prior counts at each noise level, measured by how well a network knows the data there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trainer.flow.condition import keyed_normal
from trainer.flow.path import Path
from trainer.flow.sampler.protocol import Field

HALVINGS = 60
"""Of the interval that a time is searched in; it is then known to rounding."""


def check_path(path: Path) -> None:
    """Refuses, by a ValueError, a path that is no sum of noise and data."""
    if not path.affine or path.has_noise:
        raise ValueError(
            "path: inverse problems need states that are a sum of the source and the data alone; use a run whose "
            "path.kind is linear, trigonometric, variance_preserving or diffusion_steps"
        )


def noise_level(path: Path, times: Tensor) -> Tensor:
    """The share s = a / (a + b) of the noise in a x_0 + b x_1, which is 1 - t on the straight path, at times [T]."""
    c = path.coefficients(times)
    return c.a / (c.a + c.b)


def time_of(path: Path, levels: Tensor) -> Tensor:
    """The times, float64 [T], at which a path has noise levels, which fall with time; the nearest where it has none."""
    low, high = torch.zeros_like(levels), torch.ones_like(levels)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        later = noise_level(path, middle) > levels
        low, high = torch.where(later, middle, low), torch.where(later, high, middle)
    return (low + high) / 2


LEVELS = 100
"""Noise levels at which the error of a network is measured."""


LEAST_ERROR = 1e-12
"""Of a network that knows its data exactly."""
LEAST_LEFT = 0.1
"""Share of the mean weight that has to be left when that at level 0 is taken away; with less there is no weight."""


@dataclass(frozen=True)
class Weight:
    """The weight lambda(s) of the prior: `values` [N], 0 or more, at increasing noise `levels` [N]; linear in between.

    Both are float64, and values are proportional to `scale`. `vanished`: the calibrated weight is next to nothing, and
    this is the ramp.
    """

    levels: Tensor
    values: Tensor
    scale: float
    vanished: bool = False

    def at(self, levels: Tensor) -> Tensor:
        """The weight, float64 [T], at noise levels, float64 [T]."""
        return torch.from_numpy(np.interp(levels.numpy(), self.levels.numpy(), self.values.numpy()))


def calibration_levels() -> Tensor:
    """The noise levels of :func:`calibration_errors`, float64 [100], from 0.01 to 1."""
    return torch.arange(1, LEVELS + 1, dtype=torch.float64) / LEVELS


@torch.no_grad()
def calibration_errors(field: Field, states: Tensor, path: Path, keys: Tensor) -> Tensor:
    """Measures the error of a field on examples, once for a run, without any operator.

    At the noise level s the state is x_s = (1 - s) x + s e with fresh noise e, and the error is the mean over the
    values of |x - x_1(x_s)|^2 / s^2, where x_1 is the field's estimate of the data. On the straight path this is the
    error of the velocity. On any other path the state is the same but for a factor.

    Args:
        field: of the flow, under the conditions of the examples; evaluated 100 times.
        states: [B, *D] of examples at time 1.
        path: of the flow, without noise of its own; a ValueError otherwise.
        keys: int64 [B] keys of the noise.

    Returns:
        float64 [B, 100] at `calibration_levels`; errors of several batches are joined along dimension 0.
    """
    check_path(path)
    times = time_of(path, calibration_levels())
    levels, c = noise_level(path, times), path.coefficients(times)
    found = torch.empty(len(states), LEVELS, dtype=torch.float64, device=states.device)
    for number, (time, level, a, b) in enumerate(zip(*(v.tolist() for v in (times, levels, c.a, c.b)), strict=True)):
        t = torch.full((len(states),), time, dtype=states.dtype, device=states.device)
        (expected,) = field.estimate(b * states + a * keyed_normal(states, keys, number), t, "data")
        found[:, number] = (states - expected).double().square().flatten(1).mean(1) / level**2
    return found


def calibrated(errors: Tensor, scale: float) -> Weight:
    """The weight of the prior, from errors [N, 100]: the higher, the better the field knows the data at a noise level.

    It is scale (w(s) - w(0)), and 0 where this is negative; w is 1 / error, divided by its mean over the levels. So it
    depends on the variance of the data: for independent values of variance q it is 0 up to the level 2 q / (1 + q), and
    everywhere for q >= 1. Where less than a tenth of the weight is left, as on latents that are scaled to unit
    variance, it is `ramp` instead, which is no part of the paper. A ValueError for an error that is not finite.

    Source: Erbach et al., "Solving Inverse Problems with FLAIR", arXiv 2506.02680 (the calibrated weight).
    """
    levels, mean = calibration_levels(), errors.double().mean(0).cpu()
    if not bool(mean.isfinite().all()):
        raise ValueError("weight: what the network expects of its own data is not finite; use another checkpoint")
    weight = 1 / mean.clamp(min=LEAST_ERROR)
    left = ((weight - weight[0]) / weight.mean()).clamp(min=0)
    if float(left.mean()) < LEAST_LEFT:
        return replace(ramp(scale), vanished=True)
    return Weight(levels, scale * left, scale)


def constant(scale: float) -> Weight:
    """The same weight at all noise levels."""
    return Weight(torch.tensor([0.0, 1.0], dtype=torch.float64), torch.full((2,), scale, dtype=torch.float64), scale)


def ramp(scale: float) -> Weight:
    """A weight of scale s: every step goes the same share of the way to what the field expects."""
    levels = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return Weight(levels, scale * levels, scale)
