"""Steps along the path between the current estimates of noise and data."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field as Setting
from pydantic import model_validator
from torch import Tensor

from trainer.flow.path import Path
from trainer.flow.sampler.fixed_step import FixedStep
from trainer.flow.sampler.grid import GridConfig, Times
from trainer.flow.sampler.protocol import Field


class FirstOrderConfig(GridConfig):
    """The first-order step, one evaluation each; with the straight path it is Euler's.

    Attributes:
        steps: number of steps from source to data.
        times: where the steps end, from 0 to 1, or a file of the steps verb; null: the steps are equal.
        trained_times: number of equidistant times that the network was trained at, of which 0 is the first. Every
            step begins at one of these times ("trailing" spacing). null: the network was trained at all times, and the
            steps are equal.
    """

    kind: Literal["first_order"] = "first_order"
    steps: int = Setting(default=20, ge=1, le=10_000)
    times: Times = None
    trained_times: int | None = Setting(default=None, ge=1)

    @model_validator(mode="after")
    def _at_most_one_step_a_time(self) -> FirstOrderConfig:
        if self.trained_times is not None and self.steps > self.trained_times:
            raise ValueError(f"steps {self.steps} exceed the {self.trained_times} trained_times; use at most as many")
        if self.trained_times is not None and self.times is not None:
            raise ValueError(f"times: trained_times {self.trained_times} decides them; leave out one of the two")
        return self


class FirstOrder(FixedStep):
    """x_s = a_s noise + b_s data, with the estimates of noise and data at (x_t, t).

    The step is exact for any length if the estimates do not change along the trajectory.

    Source: Song et al., "Denoising Diffusion Implicit Models", 2021, equation 12 with sigma = 0; Lin et al., "Common
    Diffusion Noise Schedules and Sample Steps are Flawed", 2024, section 3.3 (trailing spacing).

    Args:
        path: x_t = a x_0 + b x_1, without noise of its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """Moves to the next time on the path between the estimates."""
        data, noise = field.estimate(x, t.expand(len(x)), "data", "noise")
        c = self.path.coefficients(t_next.expand(len(x))).broadcast(x)
        return c.a * noise + c.b * data


def first_order_times(steps: int, trained_times: int | None) -> Tensor:
    """The grid of a :class:`FirstOrderConfig`.

    Args:
        steps: 1 or more, at most `trained_times`.
        trained_times: how many, or None.

    Returns:
        float32 [steps + 1] on the CPU, from 0 to 1.
    """
    equal = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)
    if trained_times is None:
        return equal.float()
    return (1 - (trained_times * (1 - equal)).round() / trained_times).float()
