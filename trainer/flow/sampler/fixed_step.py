"""Samplers that take one step between neighbouring times of the grid."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from itertools import pairwise, repeat

import torch
from torch import Tensor

from trainer.flow.sampler.counting import CountedField
from trainer.flow.sampler.protocol import Field, Sampler, Trajectory, VelocityField, check_times


class FixedStep(Sampler):
    """Takes one step between neighbouring times of the grid; a random sampler adds noise to some of them."""

    @abstractmethod
    def step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """Returns the states [B, *D] at `t_next`, given those at `t` (both scalars), without noise."""

    def noisy_step(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor, z: Tensor) -> Tensor:
        """Returns the states [B, *D] at `t_next`, given those at `t` and standard normal draws `z` [B, *D]."""
        raise NotImplementedError

    def noise(self, x_init: Tensor, times: Tensor, keys: Tensor | None) -> Iterable[Tensor | None]:  # noqa: ARG002
        """Returns the standard normal draws [B, *D] of each step; None: the step has no noise."""
        return repeat(None, len(times) - 1)

    def sample(self, field: VelocityField, x_init: Tensor, times: Tensor, *, keys: Tensor | None = None) -> Trajectory:
        """See `Sampler.sample`; the accuracy is that of the grid."""
        check_times(times)
        counted, states = CountedField(field), [x_init]
        steps = zip(pairwise(times.to(x_init.device)), self.noise(x_init, times, keys), strict=True)
        for (t, t_next), z in steps:
            x = states[-1]
            following = self.step(counted, x, t, t_next) if z is None else self.noisy_step(counted, x, t, t_next, z)
            states.append(following.to(x_init.dtype))
        return Trajectory(torch.stack(states), times, counted.calls)
