"""Samplers without noise of their own: equal steps, adaptive steps, and first-order steps of noise and data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from itertools import pairwise, repeat
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field as Setting
from pydantic import model_validator
from torch import Tensor

from trainer.flow.sampler.protocol import (
    BuiltIn,
    CountedField,
    Field,
    GridSampler,
    Trajectory,
    VelocityField,
    check_times,
)


class FixedStep(GridSampler):
    """Takes one step between neighbouring times of the grid; a random sampler adds noise to some of them."""

    @abstractmethod
    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """Returns the states [B, *D] at `t_next`, given those at `t` (both scalars), without noise."""

    def noisy_step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor, z: Tensor) -> Tensor:
        """Returns the states [B, *D] at `t_next`, given those at `t` and standard normal draws `z` [B, *D]."""
        raise NotImplementedError

    def noise(self, x_init: Tensor, times: Tensor, keys: Tensor | None) -> Iterable[Tensor | None]:  # noqa: ARG002
        """Returns the standard normal draws [B, *D] of each step; None for a step without noise."""
        return repeat(None, len(times) - 1)

    def sample(self, field: VelocityField, x_init: Tensor, times: Tensor, *, keys: Tensor | None = None) -> Trajectory:
        check_times(times)
        counted, states = CountedField(field), [x_init]
        steps = zip(pairwise(times.to(x_init.device)), self.noise(x_init, times, keys), strict=True)
        for (t, t_next), z in steps:
            x = states[-1]
            following = self.step(counted, x, t, t_next) if z is None else self.noisy_step(counted, x, t, t_next, z)
            states.append(following.to(x_init.dtype))
        return Trajectory(torch.stack(states), times, counted.calls)


class Euler(FixedStep):
    """Euler's method, one evaluation a step.

    x + h v(x, t); order 1: Hairer, Nørsett and Wanner, "Solving Ordinary Differential Equations I", section II.1.
    """

    kind: Literal["euler"] = "euler"
    steps: int = Setting(default=20, ge=1, le=10_000)

    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        return x + (t_next - t) * field(x, t.expand(len(x)))


class Heun(FixedStep):
    """Heun's method, two evaluations a step.

    x + h (v(x, t) + v(x + h v(x, t), t + h)) / 2; order 2: Hairer, Nørsett and Wanner, section II.1.
    """

    kind: Literal["heun"] = "heun"
    steps: int = Setting(default=10, ge=1, le=10_000)
    evaluations_per_step: ClassVar[int] = 2

    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        h = t_next - t
        first = field(x, t.expand(len(x)))
        second = field(x + h * first, t_next.expand(len(x)))
        return x + h / 2 * (first + second)


class Dopri5(BuiltIn):
    """Dormand and Prince's method of order 5, which chooses its own steps.

    Step-size control is over the whole batch, by torchdiffeq. Dormand and Prince, 1980, table 2.

    Attributes:
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step, in units of the state.
    """

    kind: Literal["dopri5"] = "dopri5"
    rtol: float = Setting(default=1e-5, gt=0.0, lt=1.0)
    atol: float = Setting(default=1e-5, gt=0.0, allow_inf_nan=False)

    def sample(
        self,
        field: VelocityField,
        x_init: Tensor,
        times: Tensor,
        *,
        keys: Tensor | None = None,  # noqa: ARG002
    ) -> Trajectory:
        from torchdiffeq import odeint  # needed by this method alone

        check_times(times)
        counted = CountedField(field)

        def velocity(t: Tensor, x: Tensor) -> Tensor:
            return counted(x, t.expand(len(x))).to(x.dtype)

        grid = times.to(x_init.device)
        stops = {"step_t": grid}  # without them the solver evaluates the field beyond the last time
        x = odeint(velocity, x_init, grid, rtol=self.rtol, atol=self.atol, method="dopri5", options=stops)
        assert isinstance(x, Tensor)
        return Trajectory(x, times, counted.calls)


class FirstOrder(FixedStep):
    """The first-order step, one evaluation each; with the straight path it is Euler's.

    x_s = a_s noise + b_s data, with the estimates at (x_t, t), exact for any length if these do not change along the
    trajectory. Song et al., DDIM, 2021, equation 12 with sigma = 0; Lin et al., 2024, section 3.3 (trailing spacing).

    Attributes:
        trained_times: number of equidistant times that the network was trained at, of which 0 is the first. Every step
            begins at one of these times ("trailing" spacing). null: the network was trained at all times, and the steps
            are equal.
    """

    kind: Literal["first_order"] = "first_order"
    steps: int = Setting(default=20, ge=1, le=10_000)
    trained_times: int | None = Setting(default=None, ge=1)

    @model_validator(mode="after")
    def _at_most_one_step_a_time(self) -> FirstOrder:
        if self.trained_times is not None and self.steps > self.trained_times:
            raise ValueError(f"steps {self.steps} exceed the {self.trained_times} trained_times; use at most as many")
        if self.trained_times is not None and self.times is not None:
            raise ValueError(f"times: trained_times {self.trained_times} decides them; leave out one of the two")
        return self

    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        data, noise = field.estimate(x, t.expand(len(x)), "data", "noise")
        c = self._path.coefficients(t_next.expand(len(x))).broadcast(x)
        return c.a * noise + c.b * data

    def grid(self, segments: int = 1) -> Tensor:
        """The grid from 0 to 1, rounded to the trained times if these are given; equal steps are rounded only once."""
        if self.times is not None:
            return super().grid(segments)
        equal = torch.linspace(0.0, 1.0, self.steps + 1, dtype=torch.float64)
        if self.trained_times is None:
            return equal.float()
        return (1 - (self.trained_times * (1 - equal)).round() / self.trained_times).float()

    def with_evaluations(self, evaluations: int, segments: int = 1) -> Self | None:
        """As in the base class, but None also if steps were shorter than the distance of the trained times."""
        many = self.trained_times is not None and evaluations > self.trained_times
        return None if many else super().with_evaluations(evaluations, segments)
