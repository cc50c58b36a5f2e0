"""Random samplers whose states at the data do not depend on those at the source."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from trainer.flow.sampler.diffusion import memoryless_diffusion
from trainer.flow.sampler.fixed_step import FixedStep
from trainer.flow.sampler.protocol import Field
from trainer.flow.sampler.sde import EulerMaruyama, inside, noise_of_steps


class Memoryless(EulerMaruyama):
    """x + h (2 v - kappa x) + sqrt(2 e h) z with kappa = (1 + floor) / (t + floor), on the straight path.

    The score there is (t v - x) / (1 - t), so that v + e score is this drift for a floor of 0, without the difference
    of two terms that grow without bound. Towards the source the drift is kappa x. The step from t = 0 is that of
    `Ancestral`, t' (x + v) + (1 - t') z: Euler's would be some 1 / floor steps times too long there, and the states
    after it tens of times too wide.

    Source: Domingo-Enrich, Drozdzal, Karrer and Chen, "Adjoint Matching", arXiv 2409.08861, section 4.3.

    Args:
        floor: keeps kappa and e small near t = 0.
    """

    def __init__(self, floor: float) -> None:
        super().__init__(memoryless_diffusion(floor))
        self.floor = floor

    def drift(self, field: Field, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """The drift [B, *D] at a time (scalar), for a step of length `h`, which is negative towards the source."""
        velocity = field(x, inside(t).expand(len(x)))
        later = velocity + h.sign() * (velocity - self.kappa(t) * x)
        return torch.where(t > 0, later, velocity - (1 - h) / h * x)

    def kappa(self, t: Tensor) -> Tensor:
        """What the drift pulls a state back by, at a time."""
        return (1 + self.floor) / (t + self.floor)


class Ancestral(FixedStep):
    """A draw of the state at t', given the state at t and the data that the velocity leads to, on the straight path.

    x' = t' d + c (x - t d) + s z with d = x + (1 - t) v, c = (t / t') ((1 - t') / (1 - t))^2 and
    s^2 = (1 - t')^2 - c^2 (1 - t)^2. At t = 0 it is finite, and x' depends on x through d alone. What is drawn is too
    narrow by O(1 / steps), since d is the mean of all data that x may lead to.

    Source: Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", arXiv 2006.11239, equations 6 and 7, for
    the weights t of the data and 1 - t of the noise.
    """

    def moments(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        """See `GaussianStep.moments`; the step leads towards the data."""
        data = x + (1 - t) * field(x, inside(t).expand(len(x)))
        kept = t / t_next * ((1 - t_next) / (1 - t)).square()
        return t_next * data + kept * (x - t * data), ((1 - t_next).square() - (kept * (1 - t)).square()).sqrt()

    def noisy_step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor, z: Tensor) -> Tensor:
        """Draws from the normal distribution of :meth:`moments`."""
        mean, std = self.moments(field, x, t, t_next)
        return mean + std * z

    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """Euler's step."""
        return x + (t_next - t) * field(x, inside(t).expand(len(x)))

    def noise(self, x_init: Tensor, times: Tensor, keys: Tensor | None) -> Iterator[Tensor | None]:
        """See `FixedStep.noise`.

        Raises:
            ValueError: there are no keys, or the grid leads towards the source.
        """
        if times[0] > times[-1]:
            raise ValueError(
                "sampler.diffusion.step: ancestral leads from the source to the data alone; use euler for the way back"
            )
        return noise_of_steps(x_init, times, keys)
