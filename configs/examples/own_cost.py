"""A cost of your own: ink in the right half of an image, which samples then keep to the left half.

What is ink in a state x_t = (1 - t) x_0 + t x_1 is above -t, for the paper of an image x_1 is -1.
"""

from pydantic import BaseModel, Field
from torch import Tensor

from trainer.flow import Condition
from trainer.flow.cost import RunningCost


class InkOnTheRight(RunningCost):
    """The sum of the squares of what lies above the paper, right of a column."""

    class Config(BaseModel, frozen=True):
        """The keys beside `class` in the configuration."""

        free: float = Field(default=0.5, gt=0, lt=1)
        """Share of the width, from the left, where ink costs nothing."""

    def __init__(self, config: Config) -> None:
        self.free = config.free

    def __call__(self, x: Tensor, t: Tensor, _condition: Condition) -> Tensor:
        """States [B, C, H, W] and times [B] to costs [B], of operations that torch differentiates."""
        right = x[..., round(self.free * x.shape[-1]) :]
        ink = (right + t.view(-1, 1, 1, 1)).relu()
        return ink.square().sum((1, 2, 3))
