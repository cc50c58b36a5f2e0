"""Gaussian data: the field of a flow to them, and what is left of them once a linear operator has shown a part."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.flow.inverse import FlairConfig, calibration_errors
from trainer.flow.operator import Operator
from trainer.flow.path import Path
from trainer.flow.sampler import Field
from trainer.flow.target import Quantity


@dataclass
class Gaussian(Field):
    """The exact field between N(0, I) and data N(mean, covariance), which is diagonal in given directions.

    Attributes:
        path: without noise of its own.
        mean: [N] of the data.
        variances: [N] of the data along the directions.
        directions: [N, N] in columns, or None for the values themselves.
        calls: evaluations so far.
    """

    path: Path
    mean: Tensor
    variances: Tensor
    directions: Tensor | None = None
    calls: int = 0

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:  # noqa: ARG002
        raise AssertionError("the solver needs no velocity")

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        """What the field expects of states [B, *D] at times [B]."""
        self.calls += 1
        c = self.path.coefficients(t).broadcast(x.flatten(1))
        away = x.flatten(1) - c.b * self.mean
        if self.directions is not None:
            away = away @ self.directions
        gain = c.b * self.variances / (c.b**2 * self.variances + c.a**2)
        moved = gain * away if self.directions is None else (gain * away) @ self.directions.T
        data = (self.mean + moved).reshape(x.shape)
        c = c.broadcast(x)
        known = {"data": data, "noise": (x - c.b * data) / c.a}
        return tuple(known[quantity] for quantity in quantities)

    @property
    def covariance(self) -> Tensor:
        """[N, N] of the data."""
        directions = torch.eye(len(self.mean)).to(self.mean) if self.directions is None else self.directions
        return directions * self.variances @ directions.T

    def drawn(self, num: int, generator: torch.Generator) -> Tensor:
        """Examples [num, N]."""
        noise = torch.randn(num, len(self.mean), generator=generator, dtype=self.mean.dtype)
        along = noise * self.variances.sqrt()
        return self.mean + (along if self.directions is None else along @ self.directions.T)

    def given(self, operator: Operator, observed: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Mean [B, N] and covariance [N, N] given noiseless observations [B, *S] of examples of a shape."""
        units = torch.eye(len(self.mean), dtype=self.mean.dtype).reshape(-1, *shape)
        matrix, covariance = operator.apply(units).flatten(1).T, self.covariance
        gain = covariance @ matrix.T @ torch.linalg.pinv(matrix @ covariance @ matrix.T, hermitian=True)
        missing = observed.flatten(1) - matrix @ self.mean
        return self.mean + missing @ gain.T, covariance - gain @ matrix @ covariance


def gaussian(path: Path, mean: Tensor, covariance: Tensor) -> Gaussian:
    """The field to N(mean [N], covariance [N, N])."""
    variances, directions = torch.linalg.eigh(covariance)
    return Gaussian(path, mean, variances, directions)


def smooth_prior(path: Path, variance: float = 0.3, mean: float = 0.2) -> Gaussian:
    """A prior of images of 4 x 4 pixels, alike where they are near."""
    places = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
    covariance = variance * torch.exp(-torch.cdist(places, places) / 2)
    return gaussian(path, torch.full((16,), mean, dtype=torch.float64), covariance)


class Beside(NamedTuple):
    """Restorations beside the exact posterior.

    Attributes:
        off: distance of their mean from its mean, in parts of its deviation (the root of its total variance), less what
            the number of restorations alone makes.
        variance: their total variance, in parts of its own.
        residual: the largest mean squared difference from what was observed.
    """

    off: float
    variance: float
    residual: float


def beside_posterior(
    field: Gaussian,
    method: FlairConfig,
    operator: Any,
    shape: tuple[int, int, int],
    *,
    seed: int,
    num: int,
    truths: int = 4,
) -> Beside:
    """Restores examples of a prior again and again.

    Args:
        field: of the prior.
        method: how.
        operator: section of what an observation shows.
        shape: of an example.
        seed: of the examples and of all draws.
        num: restorations of each.
        truths: examples; the figures are means over them, of the squared distance and of the variance.
    """
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randint(2**40, (truths * num + 256,), generator=generator)
    errors = calibration_errors(field, field.drawn(256, generator), field.path, keys[truths * num :])
    solver = method.build(path=field.path, errors=errors)
    built = operator.build(shape, torch.arange(truths * num))
    seen = built.apply(field.drawn(truths, generator).reshape(-1, *shape).repeat_interleave(num, 0))
    solution = solver.solve(field, method.agreement(built, seen), keys=keys[: truths * num])
    mean, covariance = field.given(built, seen[::num], shape)
    drawn, total = solution.states.reshape(truths, num, -1), covariance.trace()
    variance = drawn.var(1).sum(1).mean() / total
    off = (drawn.mean(1) - mean).square().sum(1).mean() / total - variance / num
    return Beside(float(off.clamp(min=0).sqrt()), float(variance), float(solution.residual.max()))
