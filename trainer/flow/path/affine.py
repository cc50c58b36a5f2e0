"""Paths x_t = a(t) x_0 + b(t) x_1, told apart by their schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import BaseModel
from torch import Tensor

from trainer.flow.coupling.protocol import Pairs
from trainer.flow.path.protocol import Coefficients, Path, PathSample

Schedule = Callable[[Tensor], Coefficients]


class LinearConfig(BaseModel, extra="forbid", frozen=True):
    """The straight path x_t = (1 - t) x_0 + t x_1; nothing to set."""

    kind: Literal["linear"] = "linear"


def linear(t: Tensor) -> Coefficients:
    """The schedule a = 1 - t, b = t of the straight path, at times `t` [B]."""
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    return Coefficients(a=1 - t, b=t, g=zero, da=-one, db=one, dg=zero, g_dg=zero)


class Affine(Path):
    """A deterministic path between the two ends: x_t = a x_0 + b x_1, velocity da x_0 + db x_1.

    Source: Lipman et al., "Flow Matching Guide and Code", arXiv 2412.06264, section 4.8; the linear schedule is
    equation 5 of Liu et al., "Flow Straight and Fast", arXiv 2209.03003.

    Args:
        schedule: times [B] to coefficients, with g = 0.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def sample(self, pairs: Pairs, t: Tensor, *, generator: torch.Generator) -> PathSample:  # noqa: ARG002
        """See `Path.sample`; nothing is drawn, and the noise is the source point."""
        c = self.schedule(t).broadcast(pairs.x_1)
        return PathSample(
            x_t=c.a * pairs.x_0 + c.b * pairs.x_1,
            velocity=c.da * pairs.x_0 + c.db * pairs.x_1,
            noise=pairs.x_0,
            t=t,
            x_0=pairs.x_0,
            x_1=pairs.x_1,
        )

    def coefficients(self, t: Tensor) -> Coefficients:
        """See `Path.coefficients`."""
        return self.schedule(t)
