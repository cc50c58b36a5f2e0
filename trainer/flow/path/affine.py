"""Paths x_t = a(t) x_0 + b(t) x_1: straight, with a^2 + b^2 = 1, or by any schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from moe.host_copies import to_device
from netsim.foundation.settings import Section
from trainer.flow.condition import per_value
from trainer.flow.coupling.protocol import Pairs
from trainer.flow.path.protocol import Coefficients, End, Path, PathSample

Schedule = Callable[[Tensor], Coefficients]
"""From times [B] to coefficients."""

LEAST_SOURCE = 1e-3
"""Weight of the source at t = 1 below which the path counts as one that ends at the data point itself."""


class LinearConfig(Section):
    """The straight path x_t = (1 - (1 - sigma_min) t) x_0 + t x_1."""

    kind: Literal["linear"] = "linear"
    sigma_min: float = Field(default=0.0, ge=0, lt=1)
    """Weight of the source at t = 1; 0: the path ends at the data point itself."""

    def build(self) -> Path:
        return Linear(self.sigma_min)


def linear(t: Tensor, sigma_min: float = 0.0) -> Coefficients:
    """The schedule a = 1 - (1 - sigma_min) t, b = t of the straight path, at times `t` [B]."""
    one, lost = torch.ones_like(t), 1 - sigma_min
    return without_noise(1 - lost * t, t, da=-lost * one, db=one)


def without_noise(a: Tensor, b: Tensor, da: Tensor, db: Tensor) -> Coefficients:
    """The coefficients [B] of a path that adds no noise of its own."""
    zero = torch.zeros_like(a)
    return Coefficients(a=a, b=b, g=zero, da=da, db=db, dg=zero, g_dg=zero)


@dataclass(eq=False)
class Affine(Path):
    """A deterministic path between the two ends: x_t = a x_0 + b x_1, velocity da x_0 + db x_1.

    The two points of a pair with an interval determine source and data of the whole path, of which the sample is a
    point; between them the noise is constant, and one first-order step leads from either to the other. Lipman et al.,
    arXiv 2412.06264, section 4.8; linear: Liu et al., arXiv 2209.03003, equation 5, with sigma_min arXiv 2210.02747,
    equation 20; intervals: Wang et al., arXiv 2410.07303, section 3.4.
    """

    schedule: Schedule
    _: KW_ONLY
    preserves_variance: bool = False
    starts_as: End | None = "source"

    def sample(self, pairs: Pairs, t: Tensor, *, generator: torch.Generator) -> PathSample:  # noqa: ARG002
        x_0, x_1, end = self._whole(pairs, t)
        c = self.schedule(t).broadcast(x_1)
        return PathSample(c.a * x_0 + c.b * x_1, c.da * x_0 + c.db * x_1, x_0, t, x_0, x_1, end=end)

    def coefficients(self, t: Tensor) -> Coefficients:
        return self.schedule(t)

    def _whole(self, pairs: Pairs, t: Tensor) -> tuple[Tensor, Tensor, Coefficients | None]:
        """Source and data of the whole path of each pair, and the coefficients at the end of its interval."""
        if pairs.interval is None:
            return pairs.x_0, pairs.x_1, None
        start, end = (self.schedule(time) for time in pairs.interval.to(t).unbind(1))
        s, e = start.broadcast(pairs.x_1), end.broadcast(pairs.x_1)
        determinant = s.a * e.b - e.a * s.b
        x_0 = (e.b * pairs.x_0 - s.b * pairs.x_1) / determinant
        x_1 = (s.a * pairs.x_1 - e.a * pairs.x_0) / determinant
        return x_0, x_1, end


class Linear(Affine):
    """The straight path from x_0 to x_1 + sigma_min x_0; `Affine` in two passes over the states in place of six."""

    def __init__(self, sigma_min: float = 0.0) -> None:
        super().__init__(partial(linear, sigma_min=sigma_min))
        self.ends_as = "data" if sigma_min < LEAST_SOURCE else None
        self._sigma_min = sigma_min

    def sample(self, pairs: Pairs, t: Tensor, *, generator: torch.Generator) -> PathSample:  # noqa: ARG002
        x_0, x_1, end = self._whole(pairs, t)
        last = x_1 if self._sigma_min == 0 else torch.add(x_1, x_0, alpha=self._sigma_min)
        x_t = torch.lerp(x_0, last, per_value(t.to(x_0), x_0))
        return PathSample(x_t, last - x_0, x_0, t, x_0, x_1, end=end)


class UniformSpline:
    """Cubic Hermite polynomials of F curves with values and slopes [K + 1, F] at the times k / K."""

    def __init__(self, values: Tensor, slopes: Tensor) -> None:
        self.values, self.slopes = values.double(), slopes.double()

    @classmethod
    def monotone(cls, values: Tensor) -> Self:
        """The curves through `values` [K + 1, F] that are monotonic wherever the values are."""
        from scipy.interpolate import PchipInterpolator

        knots = np.linspace(0.0, 1.0, len(values))
        slopes = PchipInterpolator(knots, values.double().numpy()).derivative()(knots)
        return cls(values, torch.from_numpy(slopes))

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Values and derivatives [B, F] at times [B], in their type and on their device, computed in float64."""
        values, slopes = to_device(self.values, t.device), to_device(self.slopes, t.device)
        pieces = len(values) - 1
        place = t.double() * pieces
        left = place.floor().clamp(0, pieces - 1).long()
        u = (place - left)[:, None]
        start, end = values[left], values[left + 1]
        start_slope, end_slope = slopes[left] / pieces, slopes[left + 1] / pieces
        value = (1 - u) ** 2 * ((1 + 2 * u) * start + u * start_slope) + u**2 * (
            (3 - 2 * u) * end + (u - 1) * end_slope
        )
        slope = 6 * u * (1 - u) * (end - start) + (1 - u) * (1 - 3 * u) * start_slope + u * (3 * u - 2) * end_slope
        return value.to(t), (pieces * slope).to(t)


SMALLEST_NOISE = 1e-3
"""Least weight of the source in the divisor of its own slope, which is infinite at t = 1."""


class TrigonometricConfig(Section):
    """The weights are the cosine and the sine of pi t / 2; nothing to set."""

    kind: Literal["trigonometric"] = "trigonometric"

    def build(self) -> Path:
        return Affine(trigonometric, preserves_variance=True)


class VariancePreservingConfig(Section):
    """The diffusion with a rate that decreases linearly from the source to the data."""

    kind: Literal["variance_preserving"] = "variance_preserving"
    beta_min: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """Rate of the diffusion at the data."""
    beta_max: float = Field(default=20.0, gt=0, allow_inf_nan=False)
    """Rate of the diffusion at the source; with 0.1 and 20 the weight of the data at t = 0 is 0.007."""

    @model_validator(mode="after")
    def _rates_in_order(self) -> Self:
        if self.beta_max < self.beta_min:
            raise ValueError(f"beta_max: {self.beta_max} is less than beta_min {self.beta_min}; exchange them")
        return self

    def build(self) -> Path:
        return Affine(self.coefficients, preserves_variance=True, starts_as=None)

    def coefficients(self, t: Tensor) -> Coefficients:
        """b = exp(-B / 2), a = sqrt(1 - b^2), B the integral of the rate from t to 1: arXiv 2011.13456, equation 33."""
        rest, growth = 1 - t, self.beta_max - self.beta_min
        return _from_summed_rate(self.beta_min * rest + growth / 2 * rest**2, self.beta_min + growth * rest)


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

    def build(self) -> Path:
        return Affine(DiffusionSteps(self.cumulative_alphas()), preserves_variance=True, starts_as=None)

    def cumulative_alphas(self) -> Tensor:
        """Products of 1 - beta over the first 1, ..., K steps, float64 [K]; square root: arXiv 2112.10752."""
        power = 1.0 if self.spacing == "linear" else 0.5
        betas = torch.linspace(self.beta_start**power, self.beta_end**power, self.num_steps, dtype=torch.float64)
        return (1 - betas ** (1 / power)).cumprod(0)


def trigonometric(t: Tensor) -> Coefficients:
    """a = cos(pi t / 2), b = sin(pi t / 2) at times [B]: Albergo and Vanden-Eijnden, arXiv 2209.15571, equation 5."""
    a, b = torch.sin(math.pi / 2 * (1 - t)), torch.sin(math.pi / 2 * t)
    return without_noise(a, b, da=-math.pi / 2 * b, db=math.pi / 2 * a)


class DiffusionSteps:
    """The schedule whose b^2 is, at each of K steps, the product `alphas` [K] of 1 - beta, and smooth in between."""

    def __init__(self, alphas: Tensor) -> None:
        summed_rate = torch.cat([-alphas.double().log().flip(0), torch.zeros(1, dtype=torch.float64)])
        self._summed_rate = UniformSpline.monotone(summed_rate[:, None])

    def __call__(self, t: Tensor) -> Coefficients:
        value, slope = self._summed_rate(t)
        return _from_summed_rate(value[:, 0], -slope[:, 0])


def _from_summed_rate(summed: Tensor, rate: Tensor) -> Coefficients:
    b = torch.exp(-summed / 2)
    a = torch.sqrt(-torch.expm1(-summed))
    return without_noise(a, b, da=-rate * b**2 / (2 * a.clamp(min=SMALLEST_NOISE)), db=rate * b / 2)
