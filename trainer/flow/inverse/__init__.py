"""Inverse problems, with a flow as the prior: the protocol, the solver FLAIR, and its section.

A run is calibrated once, whatever its operators will be, under the same field as restoring: on examples that it has
not learned from, or has, which makes little difference. 100 evaluations of a batch of 256 are enough.

    errors = None
    if config.weight == "calibrated":
        errors = calibration_errors(field, parts.states_of(examples, generator), parts.path, keys)   # [256, 100]
    solver = config.build(parts.path, errors)      # refuses weights that diverge, in one line
    solver.largest_ratio, solver.vanished                       # to be told

Then each batch is solved. Where states are images:

    agreement = config.agreement(operator, observed, scale=parts.data_scale)
    solution = solver.solve(field, agreement, keys=keys)

Where they are latents, the operator acts on decoded images:

    initial = parts.states_of(operator.pseudo_inverse(observed), generator)
    agreement = config.agreement(
        operator, observed, decode=lambda states: parts.space.decode(parts.data_of(states)), initial=initial
    )
    images = agreeing(operator, observed, decoded)              # what the autoencoder lost of the observations
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from pydantic import Field as Setting
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.condition import keyed_normal
from trainer.flow.inverse.consistency import Consistency, Decode, DecodedConsistency, ExactConsistency, agreeing
from trainer.flow.inverse.weight import (
    Weight,
    calibrated,
    calibration_errors,
    calibration_levels,
    check_path,
    constant,
    noise_level,
    ramp,
    time_of,
)
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
        """Solves one problem for each example.

        Args:
            field: of the flow, under the conditions of the examples.
            consistency: with the observations.
            keys: int64 [B] keys of the draws, one for each example.
        """
        ...


DIVERGES = 2.0
"""A step of at least so many times the way to what the field expects leads away from it."""


class FlairConfig(Section):
    """Steps towards what the flow expects of a noised picture, each followed by agreement with the observation."""

    kind: Literal["flair"] = "flair"
    steps: PositiveInt = 50
    """Steps, of one evaluation of the field each."""
    last: float = Setting(default=0.18, ge=0, lt=1)
    """Noise level at which the steps end; below it the prior knows little more than what it is shown."""
    scale: PositiveFloat = 0.5
    """Of the weight of the prior. A larger one brings restorations nearer to the data set and away from the mean; the
    largest weight over noise level has to stay below 2."""
    trajectory_adjustment: bool = True
    """Whether the noise of a step leans towards the noise that the field expects, rather than being fresh: the
    restorations look more like data, at a slightly larger squared error."""
    weight: Literal["calibrated", "constant", "ramp"] = "calibrated"
    """Of the prior: measured on examples for the network; `scale` at every noise level; or `scale` times the noise
    level. The first is for a small squared error: samples vary much less than what is open. Samples that vary as the
    posterior does take a ramp of scale 1.1, many steps and a small `last`, as in the request flair_posterior."""
    consistency: Literal["hard", "gradient", "soft"] = "hard"
    """How restorations agree with the observations: exactly, by gradients where states are latents (hard); by
    gradients everywhere (gradient); or by moving a share of the way in every step (soft)."""
    iterations: PositiveInt = 1
    """Steps by gradients towards the observations after each step of the prior. An autoencoder that cannot show the
    observations exactly is led astray by many."""
    tolerance: float = Setting(default=1e-4, ge=0)
    """Mean squared difference from the observations that is near enough for steps by gradients."""
    share: float = Setting(default=0.1, gt=0, le=1)
    """Of the way that a soft step moves."""

    def build(self, path: Path, errors: Tensor | None = None) -> Flair:
        """The solver, by `calibration_errors`; a ValueError if the path has noise of its own, or steps diverge."""
        return Flair(
            path,
            self.weight_of(errors),
            steps=self.steps,
            last=self.last,
            trajectory_adjustment=self.trajectory_adjustment,
        )

    def weight_of(self, errors: Tensor | None) -> Weight:
        """The weight of the prior."""
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
        """The agreement of a batch with its observations.

        Args:
            operator: made for the images of the batch.
            observed: [B, *S] observations of them.
            decode: from states to images, where states are latents; None: states are images.
            initial: [B, *D] states to begin with; needed where there is `decode`.
            scale: factor between images and states, where states are images.
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

    The first update is lambda(s) times the difference between the velocity of the field on the straight path and that
    from mu to e. In this form it holds on every path of noise and data, with states scaled to the path. The source must
    be the standard normal. Without trajectory adjustment all of e is fresh noise.

    Source: Erbach et al., "Solving Inverse Problems with FLAIR", arXiv 2506.02680.

    Attributes:
        largest_ratio: largest lambda(s) / s of all steps: the share of the distance to the estimate that a step covers.
        vanished: as `Weight.vanished`.
    """

    def __init__(
        self, path: Path, weight: Weight, *, steps: int = 50, last: float = 0.18, trajectory_adjustment: bool = True
    ) -> None:
        check_path(path)
        self._times = time_of(path, torch.linspace(1, last, steps + 2, dtype=torch.float64)[1:-1])
        self._levels = noise_level(path, self._times)
        self._ratios = weight.at(self._levels) / self._levels
        self._coefficients = path.coefficients(self._times)
        self._trajectory_adjustment = trajectory_adjustment
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
