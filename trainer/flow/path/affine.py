"""Paths x_t = a(t) x_0 + b(t) x_1."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.coupling.protocol import Pairs
from trainer.flow.path.protocol import Coefficients, End, Path, PathSample

Schedule = Callable[[Tensor], Coefficients]
"""From times [B] to coefficients."""

LEAST_SOURCE = 1e-3
"""With a smaller weight of the source at t = 1 the path counts as one that ends at the data point itself."""


class LinearConfig(Section):
    """The straight path x_t = (1 - (1 - sigma_min) t) x_0 + t x_1."""

    kind: Literal["linear"] = "linear"
    sigma_min: float = Field(default=0.0, ge=0, lt=1)
    """Weight of the source at t = 1; 0: the path ends at the data point itself."""


def linear(t: Tensor, sigma_min: float = 0.0) -> Coefficients:
    """The schedule a = 1 - (1 - sigma_min) t, b = t of the straight path, at times `t` [B]."""
    zero, one, lost = torch.zeros_like(t), torch.ones_like(t), 1 - sigma_min
    return Coefficients(a=1 - lost * t, b=t, g=zero, da=-lost * one, db=one, dg=zero, g_dg=zero)


def without_noise(a: Tensor, b: Tensor, da: Tensor, db: Tensor) -> Coefficients:
    """The coefficients [B] of a path that adds no noise of its own."""
    zero = torch.zeros_like(a)
    return Coefficients(a=a, b=b, g=zero, da=da, db=db, dg=zero, g_dg=zero)


class Affine(Path):
    """A deterministic path between the two ends: x_t = a x_0 + b x_1, velocity da x_0 + db x_1.

    A pair with an interval has its two points on such a path, x_s at the start and x_e at the end of the interval. They
    determine the source x_0 and the data x_1 of the whole path, and the sample is a point of that path. Between the two
    points the noise is constant, and one first-order step leads from either to the other.

    Source: Lipman et al., "Flow Matching Guide and Code", arXiv 2412.06264, section 4.8; the linear schedule is
    equation 5 of Liu et al., "Flow Straight and Fast", arXiv 2209.03003, and with sigma_min equation 20 of Lipman et
    al., "Flow Matching for Generative Modeling", arXiv 2210.02747; intervals are those of Wang et al., "Rectified
    Diffusion", arXiv 2410.07303, section 3.4.
    """

    def __init__(
        self, schedule: Schedule, *, preserves_variance: bool = False, starts_as: End | None = "source"
    ) -> None:
        self.schedule = schedule
        self.preserves_variance = preserves_variance
        self.starts_as = starts_as

    def sample(self, pairs: Pairs, t: Tensor, *, generator: torch.Generator) -> PathSample:  # noqa: ARG002
        """Nothing is drawn, and the noise is the source point."""
        x_0, x_1, end = self._whole(pairs, t)
        c = self.schedule(t).broadcast(x_1)
        return PathSample(
            x_t=c.a * x_0 + c.b * x_1,
            velocity=c.da * x_0 + c.db * x_1,
            noise=x_0,
            t=t,
            x_0=x_0,
            x_1=x_1,
            end=end,
        )

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
    """The straight path from x_0 to x_1 + sigma_min x_0, with the same velocity at all times.

    It equals the affine path with the schedule :func:`linear` up to rounding, and takes two passes over the states in
    place of six.
    """

    def __init__(self, sigma_min: float = 0.0) -> None:
        super().__init__(partial(linear, sigma_min=sigma_min))
        self.ends_as = "data" if sigma_min < LEAST_SOURCE else None
        self._sigma_min = sigma_min

    def sample(self, pairs: Pairs, t: Tensor, *, generator: torch.Generator) -> PathSample:  # noqa: ARG002
        """Nothing is drawn, and the noise is the source point."""
        x_0, x_1, end = self._whole(pairs, t)
        last = x_1 if self._sigma_min == 0 else torch.add(x_1, x_0, alpha=self._sigma_min)
        x_t = torch.lerp(x_0, last, t.to(x_0).view(-1, *[1] * (x_0.ndim - 1)))
        return PathSample(x_t, last - x_0, x_0, t, x_0, x_1, end=end)
