"""Samplers that take one step between neighbouring times of the grid."""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from trainer.flow.sampler.protocol import Sampler, Trajectory, VelocityField, check_times

F = TypeVar("F", bound=VelocityField)


class FixedStep(Sampler, Generic[F]):
    """Takes one step between neighbouring times of the grid, and draws nothing.

    Attributes:
        evaluations_per_step: of the field.
    """

    evaluations_per_step: ClassVar[int] = 1

    @abstractmethod
    def step(self, field: F, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """Returns the states [B, *D] at `t_next`, given those at `t` (both scalars)."""

    def sample(self, field: F, x_init: Tensor, times: Tensor, *, keys: Tensor | None = None) -> Trajectory:  # noqa: ARG002
        """See `Sampler.sample`; the accuracy is that of the grid."""
        check_times(times)
        states = [x_init]
        for t, t_next in pairwise(times.to(x_init.device)):
            states.append(self.step(field, states[-1], t, t_next).to(x_init.dtype))
        return Trajectory(torch.stack(states), times, self.evaluations_per_step * (len(times) - 1))
