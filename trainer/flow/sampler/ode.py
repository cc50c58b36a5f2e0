"""Solvers of dx/dt = v(x, t): Euler, Heun and adaptive Dormand-Prince."""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Setting
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.sampler.counting import CountedField
from trainer.flow.sampler.fixed_step import FixedStep
from trainer.flow.sampler.grid import GridConfig, Times
from trainer.flow.sampler.protocol import Field, Sampler, Trajectory, VelocityField, check_times


class EulerConfig(GridConfig):
    """Euler's method, one evaluation a step.

    Attributes:
        steps: number of steps from source to data.
        times: where the steps end, from 0 to 1, or a file of the steps verb; null: the steps are equal.
    """

    kind: Literal["euler"] = "euler"
    steps: int = Setting(default=20, ge=1, le=10_000)
    times: Times = None


class HeunConfig(GridConfig):
    """Heun's method, two evaluations a step.

    Attributes:
        steps: number of steps from source to data.
        times: where the steps end, from 0 to 1, or a file of the steps verb; null: the steps are equal.
    """

    kind: Literal["heun"] = "heun"
    steps: int = Setting(default=10, ge=1, le=10_000)
    times: Times = None


class Dopri5Config(Section):
    """Dormand and Prince's method of order 5, which chooses its own steps.

    Attributes:
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step, in units of the state.
    """

    kind: Literal["dopri5"] = "dopri5"
    rtol: float = Setting(default=1e-5, gt=0.0, lt=1.0)
    atol: float = Setting(default=1e-5, gt=0.0, allow_inf_nan=False)


class Euler(FixedStep):
    """x + h v(x, t); order 1.

    Source: Hairer, Nørsett and Wanner, "Solving Ordinary Differential Equations I", section II.1.
    """

    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """Follows the velocity at the start of the step."""
        return x + (t_next - t) * field(x, t.expand(len(x)))


class Heun(FixedStep):
    """x + h (v(x, t) + v(x + h v(x, t), t + h)) / 2; order 2.

    Source: Hairer, Nørsett and Wanner, "Solving Ordinary Differential Equations I", section II.1.
    """

    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """Averages the velocities at both ends of an Euler step."""
        h = t_next - t
        first = field(x, t.expand(len(x)))
        second = field(x + h * first, t_next.expand(len(x)))
        return x + h / 2 * (first + second)


class Dopri5(Sampler):
    """Dormand-Prince 5(4) with step-size control over the whole batch, by torchdiffeq.

    Source: Dormand and Prince, "A family of embedded Runge-Kutta formulae", 1980, table 2.

    Args:
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step, in units of the state.
    """

    def __init__(self, rtol: float, atol: float) -> None:
        self.rtol = rtol
        self.atol = atol

    def sample(
        self,
        field: VelocityField,
        x_init: Tensor,
        times: Tensor,
        *,
        keys: Tensor | None = None,  # noqa: ARG002
    ) -> Trajectory:
        """See `Sampler.sample`; every time of the grid is reached, and the tolerance decides the steps in between."""
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
