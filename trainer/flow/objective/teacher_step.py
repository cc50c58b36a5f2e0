"""One short step along the flow of a teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.flow.condition import Condition
from trainer.flow.objective.passes import Point
from trainer.flow.objective.protocol import FrozenFlow


@dataclass(frozen=True)
class TeacherStep:
    """Euler's step of a teacher towards the data.

    Attributes:
        velocity: [B, *D] of the teacher where the step begins.
        end: states and times where it ends.
        length: [B, 1, ..., 1] in time, from 0 to the longest; no step leads beyond t = 1.
        left: [B, 1, ..., 1] the time 1 - t from its beginning to the data.
        longest: what the length is away from the data.
    """

    velocity: Tensor
    end: Point
    length: Tensor
    left: Tensor
    longest: float

    @property
    def steps_left(self) -> Tensor:
        """[B, 1, ..., 1] such steps from the beginning to the data, (1 - t) / length, 1 or more."""
        return (self.left / self.longest).clamp(min=1)

    @classmethod
    @torch.no_grad()
    def taken(
        cls, teacher: FrozenFlow, beginning: Point, condition: Condition, *, guidance: float, longest: float
    ) -> TeacherStep:
        """Takes the step.

        Args:
            teacher: the flow.
            beginning: states and times where it begins.
            condition: of the examples.
            guidance: scale of the teacher's classifier-free guidance.
            longest: length of the step, in time, where there is so much of it left.
        """
        x, t = beginning
        velocity = teacher.field(condition, guidance, x.device)(x, t).to(x.dtype)
        left = (1 - t).to(x.dtype)
        length = left.clamp(max=longest)
        shape = (-1, *[1] * (x.ndim - 1))
        end = x + length.view(shape) * velocity, t + length.to(t.dtype)
        return cls(velocity, end, length.view(shape), left.view(shape), longest)
