"""Paths with a^2 + b^2 = 1, on which the state has unit variance if source and data have it."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.path.affine import without_noise
from trainer.flow.path.protocol import Coefficients
from trainer.flow.path.tabulated import UniformSpline

SMALLEST_NOISE = 1e-3
"""Least weight of the source in the divisor of its own slope, which is infinite at t = 1."""


class TrigonometricConfig(Section):
    """The weights are the cosine and the sine of pi t / 2; nothing to set."""

    kind: Literal["trigonometric"] = "trigonometric"


class VariancePreservingConfig(Section):
    """The diffusion with a rate that decreases linearly from the source to the data."""

    kind: Literal["variance_preserving"] = "variance_preserving"
    beta_min: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """Rate at the data."""
    beta_max: float = Field(default=20.0, gt=0, allow_inf_nan=False)
    """Rate at the source; with 0.1 and 20 the weight of the data at t = 0 is 0.007."""

    @model_validator(mode="after")
    def _rates_in_order(self) -> Self:
        if self.beta_max < self.beta_min:
            raise ValueError(f"beta_max: {self.beta_max} is less than beta_min {self.beta_min}; exchange them")
        return self


class DiffusionStepsConfig(Section):
    """The steps of a discrete diffusion, interpolated smoothly; step k of K is at t = 1 - k / K."""

    kind: Literal["diffusion_steps"] = "diffusion_steps"
    num_steps: PositiveInt = 1000
    """Steps K of the diffusion."""
    beta_start: float = Field(default=1e-4, gt=0, lt=1)
    """Variance of the noise of the step next to the data."""
    beta_end: float = Field(default=0.02, gt=0, lt=1)
    """Variance of the noise of the step next to the source."""
    spacing: Literal["linear", "square_root"] = "linear"
    """The quantity that is linear in the step: the variance, or its square root as in latent diffusion."""


def trigonometric(t: Tensor) -> Coefficients:
    """The schedule a = cos(pi t / 2), b = sin(pi t / 2), at times `t` [B].

    Source: Albergo and Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", arXiv 2209.15571,
    equation 5.
    """
    a, b = torch.sin(math.pi / 2 * (1 - t)), torch.sin(math.pi / 2 * t)
    return without_noise(a, b, da=-math.pi / 2 * b, db=math.pi / 2 * a)


def variance_preserving(t: Tensor, beta_min: float, beta_max: float) -> Coefficients:
    """The schedule b = exp(-B / 2), a = sqrt(1 - b^2), with B the integral of the rate from t to 1, at times `t` [B].

    The rate is linear from `beta_max` at t = 0 to `beta_min` at t = 1.

    Source: Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", arXiv 2011.13456,
    equation 33 with their time 1 - t.
    """
    rest = 1 - t
    return _from_summed_rate(
        beta_min * rest + (beta_max - beta_min) / 2 * rest**2, beta_min + (beta_max - beta_min) * rest
    )


def cumulative_alphas(config: DiffusionStepsConfig) -> Tensor:
    """Products of 1 - beta over the first 1, 2, ..., K steps of a diffusion, float64 [K].

    Source: Ho et al., "Denoising Diffusion Probabilistic Models", arXiv 2006.11239, section 2; the square-root spacing
    is that of Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", arXiv 2112.10752.
    """
    power = 1.0 if config.spacing == "linear" else 0.5
    betas = torch.linspace(config.beta_start**power, config.beta_end**power, config.num_steps, dtype=torch.float64)
    return (1 - betas ** (1 / power)).cumprod(0)


class DiffusionSteps:
    """The schedule of a discrete diffusion: b^2 is the product of 1 - beta at every step, and smooth in between.

    `alphas` [K] are the products over the first 1, ..., K steps, between 0 and 1 and decreasing.
    """

    def __init__(self, alphas: Tensor) -> None:
        summed_rate = torch.cat([-alphas.double().log().flip(0), torch.zeros(1, dtype=torch.float64)])
        self._summed_rate = UniformSpline.monotone(summed_rate[:, None])

    def __call__(self, t: Tensor) -> Coefficients:
        """Returns the coefficients at times `t` [B]."""
        value, slope = self._summed_rate(t)
        return _from_summed_rate(value[:, 0], -slope[:, 0])


def _from_summed_rate(summed: Tensor, rate: Tensor) -> Coefficients:
    b = torch.exp(-summed / 2)
    a = torch.sqrt(-torch.expm1(-summed))
    return without_noise(a, b, da=-rate * b**2 / (2 * a.clamp(min=SMALLEST_NOISE)), db=rate * b / 2)
