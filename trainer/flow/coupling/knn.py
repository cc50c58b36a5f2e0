"""Every data point is paired with the nearest of a few Gaussian draws."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.coupling.cost import pair_costs
from trainer.flow.coupling.protocol import Coupling, Pairs, standard_normal


class KNNConfig(Section):
    """The nearest of k draws; meant for data of mean 0 and standard deviation 1 in many dimensions.

    Attributes:
        k: draws for each data point; 1 is the independent coupling.
    """

    kind: Literal["knn"] = "knn"
    k: PositiveInt = 4


class KNN(Coupling):
    """Noise selected by distance: x_0 is the draw nearest to x_1 among k draws of N(0, I).

    Each pair is drawn separately, without communication between rows or ranks, and in the memory of two draws for any
    k. The source is not quite normal: in the direction of the data point its mean is nearly that of the largest of k
    normal numbers (1.03 for k = 4). That is small beside the norm sqrt(d) of a state of d values, but not in few
    dimensions.

    Source: "Improved Immiscible Diffusion", arXiv 2505.18521.

    Args:
        k: draws for each data point, at least 1.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        """See `Coupling.draw`; with `x_0` nothing is selected, and row i is paired with row i."""
        nearest = standard_normal(x_1, x_0, generator)
        if x_0 is None and self.k > 1:
            nearest = self._nearest(nearest, x_1, generator)
        return Pairs(nearest, x_1, condition)

    def _nearest(self, nearest: Tensor, x_1: Tensor, generator: torch.Generator) -> Tensor:
        least = pair_costs(nearest, x_1, "l2")
        for _ in range(self.k - 1):
            other = standard_normal(x_1, None, generator)
            distance = pair_costs(other, x_1, "l2")
            closer = (distance < least).view(-1, *[1] * (x_1.ndim - 1))
            nearest = torch.where(closer, other, nearest)
            least = torch.minimum(least, distance)
        return nearest
