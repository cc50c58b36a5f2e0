"""The path between noise and a data set along which the flow moves with the least kinetic energy.

Source: Shaul et al., "On Kinetic Optimal Probability Paths for Generative Models", arXiv 2306.06626. The kinetic energy
of a Gaussian path depends on the data through one function of the signal-to-noise ratio, how well a point is known
when it is seen in noise. With the weights of data and source in polar form, rho sin(angle) and rho cos(angle), the
energy is the integral of rho'^2 + G(angle) (rho angle')^2: a flat metric, so that the best path is a straight line in
coordinates that are stretched by sqrt(G).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.flow.path.affine import Schedule
from trainer.flow.path.table import ENDS, PathTable

RATIOS = torch.logspace(math.log10(1e-2), math.log10(60.0), 60, dtype=torch.float64)
"""Signal-to-noise ratios at which data are looked at; beyond them the price is that at the nearest."""

NODES = 4000
TIMES = 20_000
CHUNK_VALUES = 4_000_000


@dataclass(frozen=True)
class Separation:
    """How well points of a data set are known when they are seen in noise.

    Attributes:
        prices: float64 [60], for each of `RATIOS` r: G = 1 - (1 + r^2) E|x - E[x | r x + noise]|^2 / d in [0, 1], of
            data with mean 0 and E|x|^2 = d. 0: a point is known no better than one of a Gaussian; 1: it is known.
        scale: standard deviation of the data about their mean, in units of the noise.
    """

    prices: Tensor
    scale: float

    @property
    def known(self) -> Tensor:
        """lambda = E|E[x | r x + noise]|^2 / d for each of `RATIOS`, float64 [60]."""
        return 1 - (1 - self.prices) / (1 + RATIOS**2)

    def price(self, angle: Tensor) -> Tensor:
        """G at angles [N] from 0 (noise) to pi / 2 (data): what it costs to turn, by the way turned."""
        from scipy.interpolate import PchipInterpolator

        ratio = torch.tan(angle.double()).abs().clamp(RATIOS[0], RATIOS[-1])
        values = PchipInterpolator(RATIOS.log().numpy(), self.prices.numpy())(ratio.log().numpy())
        return torch.from_numpy(np.asarray(values)).clamp(0, 1)


def estimate(
    points: Tensor,
    *,
    draws: int,
    generator: torch.Generator,
    progress: Callable[[int], None] = lambda _: None,
) -> Separation:
    """Looks at data in noise, as if they were all there is.

    Two estimates of G have the same mean: one from the variance of what may have been seen, exact where nearly every
    point is known, and one from how far its mean is from the best linear guess r y / (1 + r^2), exact where nearly none
    is. Their difference is the control variate of the first.

    Args:
        points: [N, D] of the data; their mean and spread are taken out first.
        draws: of a point and its noise, the same for every ratio.
        generator: of the draws.
        progress: is told the number of ratios done, of 60.

    Raises:
        ValueError: the points are fewer than two, not finite or all the same.
    """
    if len(points) < 2 or not bool(points.isfinite().all()):
        raise ValueError(f"points: {len(points)} of them, or some not finite; give two or more finite ones")
    centred = points.double() - points.double().mean(0)
    scale = float(centred.square().mean().sqrt())
    if scale == 0:
        raise ValueError("points: all are the same; give data that differ")
    x = centred / scale
    squares = x.square().sum(1)
    drawn = torch.randint(len(x), (draws,), generator=generator)
    noise = torch.randn(draws, x.shape[1], generator=generator, dtype=torch.float64)
    rows = max(1, CHUNK_VALUES // len(x))
    prices = torch.zeros(len(RATIOS), dtype=torch.float64)
    for number, ratio in enumerate(RATIOS.tolist()):
        above, parts = 1 + ratio**2, []
        for own, around in zip(drawn.split(rows), noise.split(rows), strict=True):
            seen = ratio * x[own] + around
            likely = (ratio * seen @ x.mT - ratio**2 / 2 * squares).softmax(1)
            mean = likely @ x
            variance = likely @ squares - mean.square().sum(1)
            away = (mean - ratio / above * seen).square().sum(1)
            parts.append(torch.stack([1 - above * variance / x.shape[1], above * away / x.shape[1]]))
        prices[number] = _combined(*torch.cat(parts, dim=1))
        progress(number + 1)
    return Separation(prices.clamp(0, 1), scale)


def _combined(first: Tensor, second: Tensor) -> Tensor:
    """The mean of one estimate [N], their difference of mean 0 taken off as far as the two go together."""
    difference = first - second
    spread = difference.var(unbiased=False)
    if spread == 0:
        return first.mean()
    together = ((first - first.mean()) * (difference - difference.mean())).mean()
    return first.mean() - together / spread * difference.mean()


def fit(separation: Separation, *, least_price: float = 1e-3, knots: int = 1000) -> PathTable:
    """The path of least kinetic energy.

    Args:
        separation: of the data.
        least_price: least G that is counted on, in (0, 1]: where turning is free, the path would turn at once; the
            smaller, the steeper the path may be at the source.
        knots: K, at whose times k / K the path is tabulated.

    Returns:
        The table, of what the path is made of for the data as they are.
    """
    from scipy.interpolate import PchipInterpolator

    angle, stretched = _stretched(separation, least_price)
    whole, scale = float(stretched[-1]), separation.scale
    turn = PchipInterpolator(stretched.numpy(), angle.numpy())
    t = torch.linspace(0.0, 1.0, knots + 1, dtype=torch.float64)
    near, far = 1 - t, scale * t
    rho = (near**2 + far**2 + 2 * near * far * math.cos(whole)).sqrt()
    place = torch.atan2(far * math.sin(whole), near + far * math.cos(whole)).clamp(0, whole).numpy()
    theta, rate = (torch.from_numpy(values) for values in (turn(place), turn.derivative()(place)))
    dtheta = rate * scale * math.sin(whole) / rho**2
    drho = (scale**2 * t - near + scale * (1 - 2 * t) * math.cos(whole)) / rho
    sine, cosine = theta.sin(), theta.cos()
    weights = torch.stack([rho * cosine, rho * sine / scale], dim=1)
    slopes = torch.stack([drho * cosine - rho * sine * dtheta, (drho * sine + rho * cosine * dtheta) / scale], dim=1)
    weights[[0, -1]] = ENDS
    return PathTable(weights, slopes, {})


def angle_between(separation: Separation, least_price: float = 0.0) -> float:
    """Phi: the stretched angle between noise and data, from 0 (a Gaussian) to pi / 2 (points far apart)."""
    return float(_stretched(separation, least_price)[1][-1])


def least_energy(separation: Separation, least_price: float = 0.0) -> float:
    """The kinetic energy per dimension of the best path, about the mean: the square of a straight line's length."""
    scale = separation.scale
    return 1 + scale**2 - 2 * scale * math.cos(angle_between(separation, least_price))


def kinetic_energy(schedule: Schedule, separation: Separation, least_price: float = 0.0) -> float:
    """Integral over time of E|u|^2 / d, u the velocity of the flow, of a path without noise of its own.

    The mean of the data is left out; where it is not 0 it adds |mean|^2 / d times :func:`mean_energy`.

    Args:
        schedule: of the path.
        separation: of the data.
        least_price: least G that is counted; 0: what the data say.
    """
    c, scale = schedule(_midpoints()), separation.scale
    signal, dsignal = scale * c.b, scale * c.db
    rho = torch.hypot(signal, c.a)
    drho, turn = (signal * dsignal + c.a * c.da) / rho, (dsignal * c.a - c.da * signal) / rho
    price = separation.price(torch.atan2(signal, c.a)).clamp(min=least_price)
    return float((drho**2 + price * turn**2).mean())


def mean_energy(schedule: Schedule) -> float:
    """Integral over time of db^2: what it costs to move a mean of length 1; 1 on the straight path, at least 1."""
    return float(schedule(_midpoints()).db.square().mean())


def _midpoints() -> Tensor:
    return (torch.arange(TIMES, dtype=torch.float64) + 0.5) / TIMES


def _stretched(separation: Separation, least_price: float) -> tuple[Tensor, Tensor]:
    """Angles from 0 to pi / 2 and the integrals of sqrt(G) up to each, float64 [N]."""
    ratios = torch.logspace(-5, 5, NODES, dtype=torch.float64)
    angle = torch.cat([ratios.new_zeros(1), ratios.atan(), ratios.new_full((1,), math.pi / 2)])
    root = separation.price(angle).clamp(min=least_price).sqrt()
    steps = (root[1:] + root[:-1]) / 2 * angle.diff()
    return angle, torch.cat([angle.new_zeros(1), steps.cumsum(0)])
