"""Samplers that add noise: how much at each time, and how a step is taken with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field as Setting
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.condition import keyed_normal, per_value
from trainer.flow.path import Path
from trainer.flow.sampler.ode import FixedStep
from trainer.flow.sampler.protocol import Field


def mean_log_density(y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log normal density [B] of states, as the mean over values that ratio clips expect; std > 0 is a scalar or [B]."""
    wide = per_value(std, y) if std.ndim else std
    values = -((y - mean) / wide).square() / 2 - wide.log() - math.log(2 * math.pi) / 2
    return values.flatten(1).mean(1)


Rate = Annotated[float, Setting(ge=0.0, allow_inf_nan=False)]


class FlowGRPODiffusion(Section):
    """e = a^2 (1 - t) / (2 t), where the step from t = 0 has a^2 / (2 t') with the time t' where it ends.

    Liu et al., "Flow-GRPO", arXiv 2505.05470, section 4.2, where sigma^2 = 2 e and noise is at t = 1.
    """

    kind: Literal["flow_grpo"] = "flow_grpo"
    a: float = Setting(default=0.7, gt=0.0, allow_inf_nan=False)
    """Scale of the noise."""

    def e(self, t: Tensor, t_next: Tensor) -> Tensor:
        return self.a**2 / 2 * (1 - t) / torch.where(t > 0, t, t_next)


class MemorylessDiffusion(Section):
    """e = (1 - t + floor) / (t + floor), under which a state at the data is independent of that at the source.

    Fine-tuning by adjoint matching needs it, on a straight path. The step from t = 0, where e has no bound, is that of
    `step` ancestral. Domingo-Enrich et al., arXiv 2409.08861, section 4.3, where sigma^2 = 2 e.
    """

    kind: Literal["memoryless"] = "memoryless"
    floor: float = Setting(default=1e-3, gt=0.0, le=1.0)
    """Number above 0 that keeps e small near t = 0. It widens samples: by about 3 % if it is 1 / steps."""
    step: Literal["euler", "ancestral"] = "euler"
    """How all steps but the one from t = 0 are taken. ancestral: draws the next state given this
    state and the estimate of the data, whatever the floor; samples are too narrow, by about 7 % at 40 steps."""

    def e(self, t: Tensor, t_next: Tensor) -> Tensor:
        return torch.where(t > 0, (1 - t + self.floor) / (t + self.floor), (1 - t_next).square() / (2 * t_next))


DiffusionConfig = tuple[Rate, Rate] | FlowGRPODiffusion | MemorylessDiffusion
"""e at the source and at the data, linear in between; or a section with a kind."""

NEAREST_END = 1e-3
"""The field is evaluated no nearer to t = 0 and t = 1 than this, since the score may be infinite there."""


def inside(t: Tensor) -> Tensor:
    """The nearest of the times at which a random sampler may evaluate a field; both ends are excluded."""
    return t.clamp(NEAREST_END, 1 - NEAREST_END)


def noise_of_steps(
    x_init: Tensor, times: Tensor, keys: Tensor | None, without: tuple[float, ...] = (0.0, 1.0)
) -> Iterator[Tensor | None]:
    """Yields standard normal draws [B, *D] of each step, by keys int64 [B]; None for a step to a time in `without`."""
    if keys is None:
        raise ValueError("keys: None, and this sampler draws noise; give one for each example")
    for number, time in enumerate(times[1:].tolist()):
        yield None if time in without else keyed_normal(x_init, keys, number)


class StochasticStep(FixedStep):
    """dX = (v + e score) dt + sqrt(2 e) dW towards the data, dX = (v - e score) dt + sqrt(2 e) dW towards the source.

    For every e(t) of 0 or more marginals are those of dX = v dt; a step to t = 0 or 1 follows the velocity, without
    noise.
    """

    diffusion: DiffusionConfig = (0.5, 0.0)

    def e(self, t: Tensor, t_next: Tensor) -> Tensor:
        """The diffusion, 0 or more, of a step that begins at time `t` and ends at `t_next`."""
        if isinstance(self.diffusion, tuple):
            source, data = self.diffusion
            return (1 - t) * source + t * data
        return self.diffusion.e(t, t_next)

    def noise(self, x_init: Tensor, times: Tensor, keys: Tensor | None) -> Iterator[Tensor | None]:
        return noise_of_steps(x_init, times, keys)

    def drift(self, field: Field, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """The drift [B, *D] at a time (scalar), for a step of length `h`, which is negative towards the source."""
        velocity, score = field.estimate(x, inside(t).expand(len(x)), "velocity", "score")
        return velocity + h.sign() * self.e(t, t + h) * score


class EulerMaruyama(StochasticStep):
    """Euler's method for the stochastic equation, one evaluation a step.

    x + h drift + sqrt(2 e |h|) z; weak order 1. Kloeden and Platen, "Numerical Solution of Stochastic Differential
    Equations", 1992, section 10.2; the equation: Albergo et al., arXiv 2303.08797, corollary 18.

    Attributes:
        diffusion: e at the source and at the data, linear in between, or a section with a kind. With (0, 0) this is
            Euler's method, except that the first evaluation is at t = 0.001.
    """

    kind: Literal["euler_maruyama"] = "euler_maruyama"
    steps: int = Setting(default=100, ge=1, le=10_000)

    def build(self, path: Path) -> EulerMaruyama:
        built = super().build(path)
        if not isinstance(self.diffusion, MemorylessDiffusion):
            return built
        return (Memoryless if self.diffusion.step == "euler" else Ancestral).model_construct(**dict(built))

    def moments(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, *D], differentiable, and deviation, a scalar or [B], of the normal state at `t_next` (scalar)."""
        h = t_next - t
        return x + h * self.drift(field, x, t, h), (2 * self.e(t, t_next) * h.abs()).sqrt()

    def noisy_step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor, z: Tensor) -> Tensor:
        mean, std = self.moments(field, x, t, t_next)
        return mean + std * z

    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        return x + (t_next - t) * field(x, inside(t).expand(len(x)))


class StochasticHeun(StochasticStep):
    """Heun's method for the stochastic equation, two evaluations a step.

    x + h (drift at x + drift at x') / 2 + noise, where x' is the Euler-Maruyama step; weak order 2. Kloeden and Platen,
    1992, section 15.1, equation 1.3 for additive noise.

    Attributes:
        diffusion: e at the source and at the data, linear in between. With (0, 0) this is Heun's method, except that
            the first evaluation is at t = 0.001 and the last at t = 0.999.
    """

    kind: Literal["stochastic_heun"] = "stochastic_heun"
    steps: int = Setting(default=50, ge=1, le=10_000)
    evaluations_per_step: ClassVar[int] = 2
    diffusion: tuple[Rate, Rate] = (0.5, 0.0)

    def noisy_step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor, z: Tensor) -> Tensor:
        """The noise has the mean diffusion of both ends."""
        h = t_next - t
        noise = ((self.e(t, t_next) + self.e(t_next, t_next)) * h.abs()).sqrt() * z
        first = self.drift(field, x, t, h)
        second = self.drift(field, x + h * first + noise, t_next, h)
        return x + h / 2 * (first + second) + noise

    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        h = t_next - t
        first = field(x, inside(t).expand(len(x)))
        second = field(x + h * first, inside(t_next).expand(len(x)))
        return x + h / 2 * (first + second)


class Memoryless(EulerMaruyama):
    """x + h (2 v - kappa x) + sqrt(2 e h) z with kappa = (1 + floor) / (t + floor), on the straight path.

    The score there is (t v - x) / (1 - t), so that v + e score is this drift for a floor of 0, without the difference
    of two unbounded terms. Towards the source the drift is kappa x. The step from t = 0 is that of `Ancestral`, t' (x +
    v) + (1 - t') z: Euler's would be some 1 / floor steps times too long, and the states after it tens of times too
    wide. Domingo-Enrich et al., arXiv 2409.08861, section 4.3.
    """

    diffusion: MemorylessDiffusion = MemorylessDiffusion()

    def drift(self, field: Field, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        velocity = field(x, inside(t).expand(len(x)))
        later = velocity + h.sign() * (velocity - self.kappa(t) * x)
        return torch.where(t > 0, later, velocity - (1 - h) / h * x)

    def kappa(self, t: Tensor) -> Tensor:
        return (1 + self.diffusion.floor) / (t + self.diffusion.floor)


class Ancestral(EulerMaruyama):
    """A draw of the state at t', given the state at t and the data that the velocity leads to, on the straight path.

    x' = t' d + c (x - t d) + s z with d = x + (1 - t) v, c = (t / t') ((1 - t') / (1 - t))^2, s^2 = (1 - t')^2 - c^2 (1
    - t)^2, finite at t = 0, where x' depends on x through d alone. It is too narrow by O(1 / steps), since d is the
    mean of all data that x may lead to. Ho, Jain and Abbeel, arXiv 2006.11239, equations 6 and 7, for weights t and 1 -
    t.
    """

    def moments(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        data = x + (1 - t) * field(x, inside(t).expand(len(x)))
        kept = t / t_next * ((1 - t_next) / (1 - t)).square()
        return t_next * data + kept * (x - t * data), ((1 - t_next).square() - (kept * (1 - t)).square()).sqrt()

    def noise(self, x_init: Tensor, times: Tensor, keys: Tensor | None) -> Iterator[Tensor | None]:
        if times[0] > times[-1]:
            raise ValueError(
                "sampler.diffusion.step: ancestral leads from the source to the data alone; use euler for the way back"
            )
        return noise_of_steps(x_init, times, keys)


class Renoise(FixedStep):
    """Each step adds fresh noise to the estimate of the data, one evaluation each; for flows distilled to one step.

    x_s = b_s data + sqrt(a_s^2 + g_s^2) z, z ~ N(0, I); the step to t = 1 ends at the estimate. The states are
    distributed as on the path if the estimates are distributed as the data. A single step, on a path that ends at the
    data, is Euler's. Song et al., "Consistency Models", arXiv 2303.01469, algorithm 1, along any path.
    """

    kind: Literal["renoise"] = "renoise"
    steps: int = Setting(default=2, ge=1, le=10_000)

    def noise(self, x_init: Tensor, times: Tensor, keys: Tensor | None) -> Iterator[Tensor | None]:
        return noise_of_steps(x_init, times, keys, without=(1.0,))

    def noisy_step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor, z: Tensor) -> Tensor:
        c = self._path.coefficients(t_next.expand(len(x))).broadcast(x)
        return c.b * self.step(field, x, t, t_next) + (c.a.square() + c.g.square()).sqrt() * z

    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:  # noqa: ARG002
        """Returns the estimate of the data, whatever `t_next` is."""
        (data,) = field.estimate(x, t.expand(len(x)), "data")
        return data
