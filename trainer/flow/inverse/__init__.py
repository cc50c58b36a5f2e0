"""Inverse problems, with a flow as the prior: the protocol, the solver FLAIR with its section, and the prior's weight.

A run is calibrated once for all operators, under the field that restores images. The examples of the calibration may be
those that the run was trained on: this makes little difference. 100 evaluations of a batch of 256 are enough. Where
states are latents, the operator acts on decoded images, which are made to agree once more in the end, by `agreeing`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from pydantic import Field as Setting
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.condition import keyed_normal
from trainer.flow.inverse.consistency import Consistency, Decode, DecodedConsistency, ExactConsistency, agreeing
from trainer.flow.operator import Operator
from trainer.flow.path import Path
from trainer.flow.sampler.protocol import Field


@dataclass(frozen=True)
class Solution:
    """States [B, *D] at time 1 that solve inverse problems, their residuals [B], and evaluations for the batch."""

    states: Tensor
    residual: Tensor
    calls: int


class InverseSolver(Protocol):
    """Solves inverse problems with a flow as the prior."""

    def solve(self, field: Field, consistency: Consistency, *, keys: Tensor) -> Solution:
        """Solves one problem for each example under its condition; random draws depend on its key, int64 [B]."""
        ...


HALVINGS = 60
"""Bisections of the interval of a time, enough for float64."""


def check_path(path: Path) -> None:
    """Raises ValueError for a path whose states are not a sum of source and data alone."""
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
    """The times, float64 [T], at which a path has the noise `levels`, which fall with time; else the nearest times."""
    low, high = torch.zeros_like(levels), torch.ones_like(levels)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        later = noise_level(path, middle) > levels
        low, high = torch.where(later, middle, low), torch.where(later, high, middle)
    return (low + high) / 2


LEVELS = 100
"""Noise levels at which the error of a network is measured."""
LEAST_ERROR = 1e-12
"""Least measured error, which a network that knows its data exactly would have."""
LEAST_LEFT = 0.1
"""Least share of the mean weight that must remain when the weight at level 0 is subtracted; else `ramp` is used."""


@dataclass(frozen=True)
class Weight:
    """The weight lambda(s) of the prior: `values` [N], 0 or more, at increasing noise `levels` [N]; linear in between.

    Both are float64, and values are proportional to `scale`. `vanished`: too little of the calibrated weight
    is left, and the ramp replaces it.
    """

    levels: Tensor
    values: Tensor
    scale: float
    vanished: bool = False

    def at(self, levels: Tensor) -> Tensor:
        return torch.from_numpy(np.interp(levels.numpy(), self.levels.numpy(), self.values.numpy()))


def calibration_levels() -> Tensor:
    """The noise levels of :func:`calibration_errors`, float64 [100], from 0.01 to 1."""
    return torch.arange(1, LEVELS + 1, dtype=torch.float64) / LEVELS


@torch.no_grad()
def calibration_errors(field: Field, states: Tensor, path: Path, keys: Tensor) -> Tensor:
    """Measures the error of a field on examples at time 1, once for a run: float64 [B, 100] at `calibration_levels`.

    At noise level s the state is x_s = (1 - s) x + s e with fresh noise e. The error is the mean over values of |x -
    x_1(x_s)|^2 / s^2, with x_1 the field's estimate of the data. On the straight path it is the error of the velocity;
    other paths scale the state. Results of several batches are joined along dimension 0. A ValueError for a path with
    noise of its own.
    """
    check_path(path)
    times = time_of(path, calibration_levels())
    levels, c = noise_level(path, times), path.coefficients(times)
    errors = torch.empty(len(states), LEVELS, dtype=torch.float64, device=states.device)
    for number, (time, level, a, b) in enumerate(zip(*(v.tolist() for v in (times, levels, c.a, c.b)), strict=True)):
        t = torch.full((len(states),), time, dtype=states.dtype, device=states.device)
        (expected,) = field.estimate(b * states + a * keyed_normal(states, keys, number), t, "data")
        errors[:, number] = (states - expected).double().square().flatten(1).mean(1) / level**2
    return errors


def calibrated(errors: Tensor, scale: float) -> Weight:
    """The weight of the prior, from errors [N, 100]: the higher, the better the field knows the data at a noise level.

    It is scale (w(s) - w(0)), not below 0; w is 1 / error over its mean over the levels. For independent values of
    variance q it is 0 up to the level 2 q / (1 + q), and everywhere for q >= 1. Where less than a tenth of the weight
    is left, as on latents of unit variance, it is `ramp`, which is no part of the paper. ValueError: an error is not
    finite. Erbach et al., FLAIR, arXiv 2506.02680 (the calibrated weight).
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
    return Weight(torch.tensor([0.0, 1.0], dtype=torch.float64), torch.full((2,), scale, dtype=torch.float64), scale)


def ramp(scale: float) -> Weight:
    """The weight scale * s, by which every step covers the same share of the distance to the field's estimate."""
    levels = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return Weight(levels, scale * levels, scale)


DIVERGES = 2.0
"""A step of at least so many times the distance to the field's estimate leads away from it."""


class FlairConfig(Section):
    """Steps towards what the flow expects of a noised picture, each followed by agreement with the observation."""

    kind: Literal["flair"] = "flair"
    steps: PositiveInt = 50
    """Steps, of one evaluation of the field each."""
    last: float = Setting(default=0.18, ge=0, lt=1)
    """Noise level at which the steps end; below it the prior knows little more than the state that it is shown."""
    scale: PositiveFloat = 0.5
    """Scale of the weight of the prior. A larger one brings restorations nearer to the data set and away from the mean;
    the largest ratio of weight to noise level has to stay below 2."""
    trajectory_adjustment: bool = True
    """Whether the noise of a step leans towards the noise that the field expects, rather than being fresh: the
    restorations look more like data, at a slightly larger squared error."""
    weight: Literal["calibrated", "constant", "ramp"] = "calibrated"
    """Weight of the prior. calibrated: measured on examples for the network; constant: `scale` at every noise level;
    ramp: `scale` times the noise level. calibrated is for a small squared error: samples vary much less than what is
    open. Samples that vary as the posterior does take a ramp of scale 1.1, many steps and a small `last`, as in the
    request flair_posterior."""
    consistency: Literal["hard", "gradient", "soft"] = "hard"
    """How restorations are brought to agree with the observations. hard: exactly, or by gradients where states are
    latents; gradient: by gradients everywhere; soft: by moving a share of the path in every step."""
    iterations: PositiveInt = 1
    """Gradient steps towards the observations after each step of the prior. Many lead astray if the autoencoder cannot
    show the observations exactly."""
    tolerance: float = Setting(default=1e-4, ge=0)
    """Mean squared difference from the observations at which gradient steps are near enough."""
    share: float = Setting(default=0.1, gt=0, le=1)
    """Share of the way to agreement with the observations that a soft step moves."""

    def build(self, path: Path, errors: Tensor | None = None) -> Flair:
        """The solver, given `calibration_errors`; a ValueError if the path has noise of its own, or steps diverge."""
        return Flair(path, self.weight_of(errors), self)

    def weight_of(self, errors: Tensor | None) -> Weight:
        match self.weight:
            case "constant":
                return constant(self.scale)
            case "ramp":
                return ramp(self.scale)
            case "calibrated":
                assert errors is not None
                return calibrated(errors, self.scale)

    def agreement(
        self,
        operator: Operator,
        observed: Tensor,
        *,
        decode: Decode | None = None,
        initial: Tensor | None = None,
        scale: float = 1.0,
    ) -> Consistency:
        """The consistency of a batch with its observations [B, *S] under an operator made for its images.

        Where states are latents, `decode` maps them to images, and `initial` [B, *D] is the first estimate. Otherwise
        `scale` is the ratio of states to images.
        """
        share = self.share if self.consistency == "soft" else 1.0
        exact = ExactConsistency(operator, observed, share=share, scale=scale)
        if decode is None and self.consistency != "gradient":
            return exact
        assert decode is None or initial is not None
        return DecodedConsistency(
            operator,
            observed,
            decode or (lambda states: states / scale),
            exact.initial() if initial is None else initial,
            iterations=1 if self.consistency == "soft" else self.iterations,
            tolerance=self.tolerance,
            share=share,
        )


class Flair(InverseSolver):
    """Moves states mu towards the field's estimate of them with noise, and then into agreement with the observations.

    At falling noise levels s, with the weight lambda(s) of the prior:

        x_s = (1 - s) mu + s e,   e = (1 - s) e' + sqrt(1 - (1 - s)^2) fresh noise
        mu <- mu - lambda(s) / s (mu - x_1(x_s)),   e' <- the noise that the field expects in x_s
        mu <- the nearest states that agree

    The first update is lambda(s) times the field's straight velocity less that from mu to e, in a form that holds on
    every path of normal noise and data. Without trajectory adjustment e is fresh. A step covers the share lambda(s) / s
    of the distance to the estimate; `largest_ratio` is the largest of these. Erbach et al., FLAIR, arXiv 2506.02680.
    """

    def __init__(self, path: Path, weight: Weight, settings: FlairConfig | None = None) -> None:
        check_path(path)
        settings = settings or FlairConfig()
        self._times = time_of(path, torch.linspace(1, settings.last, settings.steps + 2, dtype=torch.float64)[1:-1])
        self._levels = noise_level(path, self._times)
        self._ratios = weight.at(self._levels) / self._levels
        self._coefficients = path.coefficients(self._times)
        self._trajectory_adjustment = settings.trajectory_adjustment
        self.vanished, self.largest_ratio = weight.vanished, float(self._ratios.max())
        if self.largest_ratio >= DIVERGES:
            level = float(self._levels[self._ratios.argmax()])
            limit = math.floor(1000 * weight.scale * DIVERGES / self.largest_ratio) / 1000
            raise ValueError(
                f"scale: {weight.scale:g} makes the weight of the prior {self.largest_ratio:.3g} x the noise level at "
                f"{level:.2g}, and from 2 on steps diverge; use a scale below {limit:g}"
            )

    @torch.no_grad()
    def solve(self, field: Field, consistency: Consistency, *, keys: Tensor) -> Solution:
        states = consistency.initial()
        end = keyed_normal(states, keys, 0)
        columns = (self._times, self._levels, self._ratios, self._coefficients.a, self._coefficients.b)
        for number, (time, level, ratio, a, b) in enumerate(zip(*(c.tolist() for c in columns), strict=True), 1):
            kept = 1 - level if self._trajectory_adjustment else 0.0
            noise = kept * end + math.sqrt(1 - kept**2) * keyed_normal(states, keys, number)
            t = torch.full((len(states),), time, dtype=states.dtype, device=states.device)
            expected, end = field.estimate(b * states + a * noise, t, "data", "noise")
            states = consistency.enforced(states - ratio * (states - expected), ratio * level)
        return Solution(states, consistency.residual(states), calls=len(self._times))


Config = FlairConfig
