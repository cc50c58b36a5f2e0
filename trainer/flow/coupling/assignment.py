"""Source points are assigned to data points with the least sum of distances."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from moe.host_copies import to_device
from netsim.foundation.settings import Section
from trainer.flow.coupling.cost import Cost, cost_matrix
from trainer.flow.coupling.matched import Match, Matching, Scope


class AssignmentConfig(Section):
    """Linear assignment by distance.

    Attributes:
        scope: the points of one assignment: those of a micro batch, or of a whole step over all ranks.
    """

    kind: Literal["assignment"] = "assignment"
    scope: Scope = "micro_batch"


class Assignment(Matching):
    """A permutation of the source points with the least sum of costs; their distribution does not change.

    Source: "Immiscible Diffusion", arXiv 2406.12303, with the distance as cost; Tong et al., "Improving and
    Generalizing Flow-Based Generative Models with Minibatch Optimal Transport", arXiv 2302.00482, with its square.

    Args:
        cost: of a pair.
    """

    weighs = False

    def __init__(self, cost: Cost) -> None:
        self.cost: Cost = cost

    def __call__(self, x_0: Tensor, x_1: Tensor, generator: torch.Generator) -> Match:  # noqa: ARG002
        """See `Matching`; nothing is drawn."""
        from scipy.optimize import linear_sum_assignment  # a third of a second to import

        # |x_0 - x_1|^2 summed over a permutation is a constant less twice the sum of the products.
        costs = cost_matrix(x_1, x_0, "l2") if self.cost == "l2" else -(x_1.float() @ x_0.float().mT)
        _, source = linear_sum_assignment(costs.cpu().numpy())
        return Match(to_device(torch.from_numpy(source), x_1.device))
