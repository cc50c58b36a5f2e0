"""The standard deviation gamma(t) of a stochastic interpolant's own noise."""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from netsim.foundation.settings import Section

SMALLEST_VALUE = 1e-3
"""Least gamma, in units of sqrt(factor), that the slope of the Brownian gamma is computed with."""


class BrownianConfig(Section):
    """gamma = sqrt(factor t (1 - t)), that of a Brownian bridge; its slope is bounded where t (1 - t) < 1e-6."""

    kind: Literal["brownian"] = "brownian"
    factor: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Four times the largest variance, that at t = 1/2."""


class QuadraticConfig(Section):
    """gamma = t (1 - t); nothing to set."""

    kind: Literal["quadratic"] = "quadratic"


class SineSquaredConfig(Section):
    """gamma = sin(pi t)^2; nothing to set."""

    kind: Literal["sine_squared"] = "sine_squared"


class ZeroConfig(Section):
    """gamma = 0, no noise; nothing to set."""

    kind: Literal["zero"] = "zero"


Config = Annotated[BrownianConfig | QuadraticConfig | SineSquaredConfig | ZeroConfig, Field(discriminator="kind")]


class Gamma(NamedTuple):
    """gamma at B times, its time derivative, and the product of the two, each [B]."""

    value: Tensor
    slope: Tensor
    product: Tensor


def gamma(config: Config, t: Tensor) -> Gamma:
    """Evaluates a gamma. At t = 0 and t = 1 its value is 0, while its slope need not be, nor the Brownian product.

    Source: Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants", arXiv 2303.08797, section 4 and table 8.

    Args:
        config: which.
        t: [B] times in [0, 1].
    """
    match config:
        case BrownianConfig(factor=factor):
            value, product = torch.sqrt(factor * t * (1 - t)), factor * (1 - 2 * t) / 2
            return Gamma(value, product / value.clamp(min=SMALLEST_VALUE * scale(config)), product)
        case QuadraticConfig():
            value, slope = t * (1 - t), 1 - 2 * t
        case SineSquaredConfig():
            value, slope = torch.sin(math.pi * t) ** 2, math.pi * torch.sin(2 * math.pi * t)
        case ZeroConfig():
            value = slope = torch.zeros_like(t)
    return Gamma(value, slope, value * slope)


def scale(config: Config) -> float:
    """The number that a gamma is proportional to: sqrt(factor) of the Brownian one, 1 of all others."""
    return math.sqrt(config.factor) if isinstance(config, BrownianConfig) else 1.0
