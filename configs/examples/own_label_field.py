"""A code of classes of your own: their places on a circle, since the last of twelve hours is a neighbour of the first.

A label fills two planes of the state, the cosine and the sine of its angle.
"""

import math

import torch
from pydantic import BaseModel, PositiveFloat
from torch import Tensor

from trainer.flow import Condition
from trainer.flow.label_field import even


class Circle:
    """Keeps the protocol `trainer.flow.label_field.LabelField` without extending it."""

    class Config(BaseModel, frozen=True):
        """The keys beside `class` in the configuration."""

        radius: PositiveFloat = 1.5

    def __init__(self, config: Config) -> None:
        self.radius = config.radius

    def planes(self, num_classes: int) -> int:  # noqa: ARG002
        """Two for any number of classes."""
        return 2

    def fill(self, noise: Tensor) -> Tensor:
        """One value for all pixels of a plane, as the angle is one."""
        return even(noise)

    def encode(self, condition: Condition, uniform: Tensor, num_classes: int) -> Tensor:
        """Fields [B, 2, *rest]: angles are noisy by less than half of the gap to the next class."""
        assert condition.label is not None
        label = condition.label.reshape(-1, *[1] * (uniform.ndim - 2))
        angle = 2 * math.pi / num_classes * (label + 0.9 * (uniform[:, 0] - 0.5))
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)

    def decode(self, field: Tensor, num_classes: int) -> Tensor:
        """The class of the nearest angle, int64 [B]."""
        cosine, sine = field.reshape(len(field), 2, -1).mean(2).unbind(1)
        return (torch.atan2(sine, cosine) * num_classes / (2 * math.pi)).round().long() % num_classes
