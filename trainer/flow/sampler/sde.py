"""Random samplers: every step adds noise, and a drift along the score keeps the marginals of the flow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Literal

from pydantic import Field as Setting
from torch import Tensor

from trainer.flow.keyed_draws import keyed_normal
from trainer.flow.sampler.diffusion import Diffusion, DiffusionConfig, Rate
from trainer.flow.sampler.fixed_step import FixedStep
from trainer.flow.sampler.grid import GridConfig, Times
from trainer.flow.sampler.protocol import Field

NEAREST_END = 1e-3
"""The field is evaluated no nearer to t = 0 and t = 1 than this, since the score may be infinite there."""


class EulerMaruyamaConfig(GridConfig):
    """Euler's method for the stochastic equation, one evaluation a step.

    Attributes:
        steps: number of steps from source to data.
        times: where the steps end, from 0 to 1, or a file of the steps verb; null: the steps are equal.
        diffusion: e at the source and at the data, linear in between, or a section with a kind. With (0, 0) this is
            Euler's method, except that the first evaluation is at t = 0.001.
    """

    kind: Literal["euler_maruyama"] = "euler_maruyama"
    steps: int = Setting(default=100, ge=1, le=10_000)
    times: Times = None
    diffusion: DiffusionConfig = (0.5, 0.0)


class StochasticHeunConfig(GridConfig):
    """Heun's method for the stochastic equation, two evaluations a step.

    Attributes:
        steps: number of steps from source to data.
        times: where the steps end, from 0 to 1, or a file of the steps verb; null: the steps are equal.
        diffusion: e at the source and at the data, linear in between. With (0, 0) this is Heun's method, except that
            the first evaluation is at t = 0.001 and the last at t = 0.999.
    """

    kind: Literal["stochastic_heun"] = "stochastic_heun"
    steps: int = Setting(default=50, ge=1, le=10_000)
    times: Times = None
    diffusion: tuple[Rate, Rate] = (0.5, 0.0)


def noise_of_steps(x_init: Tensor, times: Tensor, keys: Tensor | None) -> Iterator[Tensor | None]:
    """The standard normal draws [B, *D] of each step of a random sampler; None: it ends at t = 0 or t = 1.

    Args:
        x_init: [B, *D] the first states, whose shape and type the draws have.
        times: [T] the grid.
        keys: int64 [B] of the examples; the draws of a step are a function of them and of its number.

    Raises:
        ValueError: there are no keys.
    """
    if keys is None:
        raise ValueError("keys: None, and this sampler draws noise; give one for each example")
    for number, time in enumerate(times[1:].tolist()):
        yield None if time in (0.0, 1.0) else keyed_normal(x_init, keys, number)


class StochasticStep(FixedStep):
    """dX = (v + e score) dt + sqrt(2 e) dW towards the data, dX = (v - e score) dt + sqrt(2 e) dW towards the source.

    Each has the marginals of dX = v dt for every e(t) of 0 or more. A step that ends at t = 0 or t = 1 has no noise and
    follows the velocity alone.

    Args:
        diffusion: e.
    """

    def __init__(self, diffusion: Diffusion) -> None:
        self.diffusion = diffusion

    @abstractmethod
    def noisy_step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor, z: Tensor) -> Tensor:
        """See `FixedStep.noisy_step`."""

    def noise(self, x_init: Tensor, times: Tensor, keys: Tensor | None) -> Iterator[Tensor | None]:
        """See `FixedStep.noise` and :func:`noise_of_steps`."""
        return noise_of_steps(x_init, times, keys)

    def drift(self, field: Field, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """The drift [B, *D] at a time (scalar), for a step of length `h`, which is negative towards the source."""
        velocity, score = field.estimate(x, inside(t).expand(len(x)), "velocity", "score")
        return velocity + h.sign() * self.diffusion(t, t + h) * score


class EulerMaruyama(StochasticStep):
    """x + h drift + sqrt(2 e |h|) z; weak order 1.

    Source: Kloeden and Platen, "Numerical Solution of Stochastic Differential Equations", 1992, section 10.2; Albergo,
    Boffi and Vanden-Eijnden, "Stochastic Interpolants", arXiv 2303.08797, corollary 18 (the equation).
    """

    def moments(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, *D] and standard deviation (scalar) of the normal distribution of the state at `t_next`."""
        h = t_next - t
        return x + h * self.drift(field, x, t, h), (2 * self.diffusion(t, t_next) * h.abs()).sqrt()

    def noisy_step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor, z: Tensor) -> Tensor:
        """Draws from the normal distribution of :meth:`moments`."""
        mean, std = self.moments(field, x, t, t_next)
        return mean + std * z

    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """Euler's step."""
        return x + (t_next - t) * field(x, inside(t).expand(len(x)))


class StochasticHeun(StochasticStep):
    """x + h (drift at x + drift at x') / 2 + noise, where x' is the Euler-Maruyama step; weak order 2.

    Source: Kloeden and Platen, "Numerical Solution of Stochastic Differential Equations", 1992, section 15.1, equation
    1.3 for additive noise.
    """

    def noisy_step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor, z: Tensor) -> Tensor:
        """Averages the drifts at both ends of an Euler-Maruyama step; the noise has the mean diffusion of both."""
        h = t_next - t
        noise = ((self.diffusion(t, t_next) + self.diffusion(t_next, t_next)) * h.abs()).sqrt() * z
        first = self.drift(field, x, t, h)
        second = self.drift(field, x + h * first + noise, t_next, h)
        return x + h / 2 * (first + second) + noise

    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """Heun's step."""
        h = t_next - t
        first = field(x, inside(t).expand(len(x)))
        second = field(x + h * first, inside(t_next).expand(len(x)))
        return x + h / 2 * (first + second)


def inside(t: Tensor) -> Tensor:
    """The nearest time where a random sampler evaluates a field."""
    return t.clamp(NEAREST_END, 1 - NEAREST_END)
