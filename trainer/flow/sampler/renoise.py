"""One step to the data, and noise again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, Protocol

from pydantic import Field as Setting
from torch import Tensor

from trainer.flow.keyed_draws import keyed_normal
from trainer.flow.path import Path
from trainer.flow.sampler.grid import GridConfig, Times
from trainer.flow.sampler.ode import FixedStep
from trainer.flow.sampler.protocol import Field


class GaussianStep(Protocol):
    """A step whose next state is normally distributed, given the state before it."""

    def moments(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the next state, the same for all of its values.

        Args:
            field: the field.
            x: [B, *D] states.
            t: scalar, their time.
            t_next: scalar, the time of the next states.

        Returns:
            [B, *D] means, differentiable in what the field is made of, and a scalar, or [B], standard deviation.
        """
        ...


def mean_log_density(y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Logarithm [B] of the density of states under normal distributions, divided by the number of their values.

    The mean over values, and not their sum, is what a clip of ratios is set for, whatever the size of a state. `std` is
    above 0, a scalar or [B].
    """
    wide = std.reshape(-1, *(1,) * (y.ndim - 1)) if std.ndim else std
    values = -((y - mean) / wide).square() / 2 - wide.log() - math.log(2 * math.pi) / 2
    return values.flatten(1).mean(1)


class RenoiseConfig(GridConfig):
    """The estimate of the data and fresh noise in each step, one evaluation each; for flows distilled to one step.

    Attributes:
        steps: number of steps from source to data.
        times: where the steps end, from 0 to 1, or a file of the steps verb; null: the steps are equal.
    """

    kind: Literal["renoise"] = "renoise"
    steps: int = Setting(default=2, ge=1, le=10_000)
    times: Times = None


class Renoise(FixedStep):
    """x_s = b_s data + sqrt(a_s^2 + g_s^2) z with the estimate of the data at (x_t, t) and z ~ N(0, I).

    The step to t = 1 ends at the estimate, without noise. Every other state has the distribution of the path at its
    time, if the estimates have that of the data. Where the path ends at the data, one step is Euler's.

    Source: Song et al., "Consistency Models", arXiv 2303.01469, algorithm 1, along any path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def noise(self, x_init: Tensor, times: Tensor, keys: Tensor | None) -> Iterator[Tensor | None]:
        if keys is None:
            raise ValueError("keys: None, and this sampler draws noise; give one for each example")
        for number, time in enumerate(times[1:].tolist()):
            yield None if time == 1.0 else keyed_normal(x_init, keys, number)

    def noisy_step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor, z: Tensor) -> Tensor:
        c = self.path.coefficients(t_next.expand(len(x))).broadcast(x)
        return c.b * self.step(field, x, t, t_next) + (c.a.square() + c.g.square()).sqrt() * z

    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:  # noqa: ARG002
        """The estimate of the data."""
        (data,) = field.estimate(x, t.expand(len(x)), "data")
        return data
