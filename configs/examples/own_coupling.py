"""A coupling of your own: source and data points of a micro batch are paired in their order along a random direction.

That is optimal transport in the one dimension of the direction, at the cost of two sorts.
"""

import torch
from pydantic import BaseModel, PositiveInt
from torch import Tensor

from trainer.flow import Condition
from trainer.flow.coupling import Coupling, Pairs


class AlongDirection(Coupling):
    """Pairs by rank along the direction, of several random ones, in which the data vary most."""

    weighs = False
    """Pairs have no weights, so that the traffic of a run is known beforehand."""

    class Config(BaseModel, frozen=True):
        """The keys beside `class` in the configuration."""

        directions: PositiveInt = 8
        """Random directions to choose from."""

    def __init__(self, config: Config) -> None:
        self.directions = config.directions

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        """Data points keep their rows and conditions; source points are permuted."""
        flat = x_1.flatten(1)
        if x_0 is None:
            x_0 = torch.randn(x_1.shape, generator=generator).to(x_1)
        choices = torch.randn(flat.shape[1], self.directions, generator=generator).to(flat)
        projected = flat @ (choices / choices.norm(dim=0))
        chosen = projected.var(dim=0).argmax()
        order = (x_0.flatten(1) @ choices[:, chosen]).argsort()
        places = projected[:, chosen].argsort().argsort()
        return Pairs(x_0[order[places]], x_1, condition)
