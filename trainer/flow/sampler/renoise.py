"""Estimates of the data, noised anew between steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field as Setting
from torch import Tensor

from trainer.flow.keyed_draws import keyed_normal
from trainer.flow.path import Path
from trainer.flow.sampler.fixed_step import FixedStep
from trainer.flow.sampler.grid import GridConfig, Times
from trainer.flow.sampler.protocol import Field


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

    Args:
        path: x_t = a x_0 + b x_1 + g z from a standard normal x_0 that is independent of the data.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def noise(self, x_init: Tensor, times: Tensor, keys: Tensor | None) -> Iterator[Tensor | None]:
        """See `FixedStep.noise`; the draws of a step are a function of the keys of the examples and its number.

        Raises:
            ValueError: there are no keys.
        """
        if keys is None:
            raise ValueError("keys: None, and this sampler draws noise; give one for each example")
        for number, time in enumerate(times[1:].tolist()):
            yield None if time == 1.0 else keyed_normal(x_init, keys, number)

    def noisy_step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor, z: Tensor) -> Tensor:
        """Noises the estimate of the data as the path does at the next time."""
        c = self.path.coefficients(t_next.expand(len(x))).broadcast(x)
        return c.b * self.step(field, x, t, t_next) + (c.a.square() + c.g.square()).sqrt() * z

    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:  # noqa: ARG002
        """The estimate of the data."""
        (data,) = field.estimate(x, t.expand(len(x)), "data")
        return data
