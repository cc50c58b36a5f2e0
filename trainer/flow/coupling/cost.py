"""What it costs to move a source point to a data point."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from moe.ot.costs import euclidean, squared_euclidean

Cost = Literal["l2", "sqeuclidean"]
"""The distance or its square."""


def pair_costs(x_0: Tensor, x_1: Tensor, cost: Cost) -> Tensor:
    """Costs of the pairs of equal row, float32 [B], for points [B, *D]."""
    # One pass over the points: differences of whole batches would be written to memory and read again.
    distance = torch.cdist(x_0.flatten(1)[:, None].float(), x_1.flatten(1)[:, None].float()).flatten()
    return distance if cost == "l2" else distance.square()


def cost_matrix(x_0: Tensor, x_1: Tensor, cost: Cost) -> Tensor:
    """Costs of all pairs, float32 [N, M], for points [N, F] and [M, F]."""
    return (euclidean if cost == "l2" else squared_euclidean)(x_0.float(), x_1.float())
