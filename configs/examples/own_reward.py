"""A reward of your own: images whose halves mirror each other.

With a gradient, as here, it serves adjoint matching (`task.kind: adjoint_matching`). A class that says
``differentiable = False`` may compute its values by whatever it likes, and serves `task.kind: grpo` alone.
"""

from pydantic import BaseModel, Field
from torch import Tensor

from trainer.flow import Condition
from trainer.flow.reward import Reward


class MirrorImage(Reward):
    """Minus the mean squared difference between an image and its mirror image."""

    class Config(BaseModel, frozen=True):
        """The keys beside `class` in the configuration."""

        weight: float = Field(default=1.0, gt=0)
        """What the reward is multiplied by."""

    def __init__(self, config: Config) -> None:
        self.weight = config.weight

    def __call__(self, examples: Tensor, _condition: Condition) -> Tensor:
        """Images [B, C, H, W] from -1 to 1 to rewards [B], of operations that torch differentiates."""
        return -self.weight * (examples - examples.flip(-1)).square().mean((1, 2, 3))
