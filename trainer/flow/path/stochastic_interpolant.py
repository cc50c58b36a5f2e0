"""Paths with noise of their own, and its standard deviation gamma(t)."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.coupling.protocol import Pairs, standard_normal
from trainer.flow.path.affine import Affine, Linear, Schedule, linear, trigonometric
from trainer.flow.path.protocol import Coefficients, End, Path, PathSample

SMALLEST_VALUE = 1e-3
"""Least gamma, in units of sqrt(factor), that the slope of the Brownian gamma is computed with."""


class Gamma(NamedTuple):
    """gamma at B times, its derivative, and the finite product of both, [B]: arXiv 2303.08797, section 4."""

    value: Tensor
    slope: Tensor
    product: Tensor

    @classmethod
    def of(cls, value: Tensor, slope: Tensor) -> Gamma:
        return cls(value, slope, value * slope)


class BrownianConfig(Section):
    """gamma = sqrt(factor t (1 - t)), that of a Brownian bridge; its slope is bounded where t (1 - t) < 1e-6."""

    kind: Literal["brownian"] = "brownian"
    factor: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Four times the largest variance, that at t = 1/2."""

    @property
    def scale(self) -> float:
        return math.sqrt(self.factor)

    def at(self, t: Tensor) -> Gamma:
        value, product = torch.sqrt(self.factor * t * (1 - t)), self.factor * (1 - 2 * t) / 2
        return Gamma(value, product / value.clamp(min=SMALLEST_VALUE * self.scale), product)


class QuadraticConfig(Section):
    """gamma = t (1 - t); nothing to set."""

    kind: Literal["quadratic"] = "quadratic"
    scale: ClassVar[float] = 1.0

    def at(self, t: Tensor) -> Gamma:
        return Gamma.of(t * (1 - t), 1 - 2 * t)


class SineSquaredConfig(Section):
    """gamma = sin(pi t)^2; nothing to set."""

    kind: Literal["sine_squared"] = "sine_squared"
    scale: ClassVar[float] = 1.0

    def at(self, t: Tensor) -> Gamma:
        return Gamma.of(torch.sin(math.pi * t) ** 2, math.pi * torch.sin(2 * math.pi * t))


class ZeroConfig(Section):
    """gamma = 0, no noise; nothing to set."""

    kind: Literal["zero"] = "zero"
    scale: ClassVar[float] = 1.0

    def at(self, t: Tensor) -> Gamma:
        return Gamma.of(torch.zeros_like(t), torch.zeros_like(t))


Config = Annotated[BrownianConfig | QuadraticConfig | SineSquaredConfig | ZeroConfig, Field(discriminator="kind")]


class StochasticInterpolantConfig(Section):
    """From any source to the data, with noise of its own in between."""

    kind: Literal["stochastic_interpolant"] = "stochastic_interpolant"
    interpolation: Literal["linear", "trigonometric", "encoding_decoding"] = "linear"
    """The weights of source and data; with encoding_decoding the source has a weight only before t = 1/2, and the data
    only after it, so that the state at t = 1/2 is noise alone."""
    gamma: Config = BrownianConfig()
    """The standard deviation of the noise."""

    @model_validator(mode="after")
    def _gamma_fits(self) -> Self:
        match self.interpolation, self.gamma:
            case "trigonometric", BrownianConfig(factor=factor) if factor >= 4:
                raise ValueError(
                    f"gamma.factor: {factor} makes the noise too large for a trigonometric interpolation, where the "
                    "squares of all weights sum to 1; use less than 4"
                )
            case "trigonometric", SineSquaredConfig():
                raise ValueError(
                    "gamma.kind: sine_squared makes the slopes of a trigonometric interpolation jump at t = 1/2, where "
                    "the weights of source and data are 0; use one of brownian, quadratic, zero"
                )
            case "encoding_decoding", ZeroConfig():
                raise ValueError(
                    "gamma.kind: zero makes every state 0 at t = 1/2 on an encoding_decoding interpolation; use one of "
                    "brownian, quadratic, sine_squared"
                )
        return self

    def build(self) -> Path:
        if self.gamma.kind != "zero":
            separable = self.interpolation != "encoding_decoding"
            return StochasticInterpolant(self.coefficients, separable=separable, noise_scale=self.gamma.scale)
        if self.interpolation == "linear":
            return Linear()
        return Affine(self.coefficients, preserves_variance=True)

    def coefficients(self, t: Tensor) -> Coefficients:
        noise = self.gamma.at(t)
        match self.interpolation:
            case "linear":
                ends = linear(t)
                return _with(noise, ends.a, ends.b, ends.da, ends.db)
            case "trigonometric":
                ends, rest = trigonometric(t), torch.sqrt(1 - noise.value**2)
                slope = -noise.product / rest
                da, db = ends.da * rest + ends.a * slope, ends.db * rest + ends.b * slope
                return _with(noise, ends.a * rest, ends.b * rest, da, db)
            case "encoding_decoding":
                weight, slope = torch.cos(math.pi * t) ** 2, -math.pi * torch.sin(2 * math.pi * t)
                zero, encoding = torch.zeros_like(t), t < 0.5
                a, da = torch.where(encoding, weight, zero), torch.where(encoding, slope, zero)
                b, db = torch.where(encoding, zero, weight), torch.where(encoding, zero, slope)
                return _with(noise, a, b, da, db)


class MirrorInterpolantConfig(Section):
    """From a data point through noise back to itself: x_t = x_1 + gamma z. Samplers start at data points."""

    kind: Literal["mirror_interpolant"] = "mirror_interpolant"
    gamma: Config = BrownianConfig()
    """The standard deviation of the noise."""

    @model_validator(mode="after")
    def _it_moves(self) -> Self:
        if self.gamma.kind == "zero":
            raise ValueError("gamma.kind: zero never moves a state; use one of brownian, quadratic, sine_squared")
        return self

    def build(self) -> Path:
        return StochasticInterpolant(
            self.coefficients, has_source=False, separable=False, starts_as="data", noise_scale=self.gamma.scale
        )

    def coefficients(self, t: Tensor) -> Coefficients:
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        return _with(self.gamma.at(t), a=zero, b=one, da=zero, db=zero)


class OneSidedInterpolantConfig(Section):
    """From noise that the path draws itself to the data; the source points of the pairs are not used."""

    kind: Literal["one_sided_interpolant"] = "one_sided_interpolant"
    interpolation: Literal["linear", "trigonometric"] = "linear"
    """The weights of noise and data."""

    def build(self) -> Path:
        return StochasticInterpolant(self.coefficients, has_source=False)

    def coefficients(self, t: Tensor) -> Coefficients:
        ends = linear(t) if self.interpolation == "linear" else trigonometric(t)
        zero = torch.zeros_like(t)
        return _with(Gamma.of(ends.a, ends.da), a=zero, b=ends.b, da=zero, db=ends.db)


@dataclass(eq=False)
class StochasticInterpolant(Path):
    """x_t = a x_0 + b x_1 + g z with a fresh z ~ N(0, I) for every point, and g > 0 inside (0, 1)."""

    has_noise = True

    interpolant: Schedule
    _: KW_ONLY
    has_source: bool = True
    separable: bool = True
    starts_as: End | None = "source"
    noise_scale: float = 1.0

    def sample(self, pairs: Pairs, t: Tensor, *, generator: torch.Generator) -> PathSample:
        """The sample with noise z, and its mirror with -z; a ValueError if the pairs have an interval."""
        if pairs.interval is not None:
            raise ValueError(
                "pairs.interval: with noise of its own a path is no curve through two points; use an affine path"
            )
        z = standard_normal(pairs.x_1, None, generator)
        sample = self._sample(pairs, t, z)
        return sample._replace(mirror=self._sample(pairs, t, -z))

    def coefficients(self, t: Tensor) -> Coefficients:
        return self.interpolant(t)

    def _sample(self, pairs: Pairs, t: Tensor, z: Tensor) -> PathSample:
        c, x_0, x_1 = self.interpolant(t).broadcast(pairs.x_1), pairs.x_0, pairs.x_1
        velocity = c.da * x_0 + c.db * x_1 + c.dg * z
        return PathSample(c.a * x_0 + c.b * x_1 + c.g * z, velocity, z, t, x_0, x_1)


def _with(noise: Gamma, a: Tensor, b: Tensor, da: Tensor, db: Tensor) -> Coefficients:
    return Coefficients(a=a, b=b, g=noise.value, da=da, db=db, dg=noise.slope, g_dg=noise.product)
