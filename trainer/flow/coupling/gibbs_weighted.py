"""Independent pairs that count the more the closer they are."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from moe.validation.section import Section
from trainer.flow.condition import Condition
from trainer.flow.coupling.cost import Cost, pair_costs
from trainer.flow.coupling.protocol import Coupling, Pairs, standard_normal


class GibbsWeightedConfig(Section, allow_inf_nan=True):
    """Weights exp(-cost / epsilon).

    Attributes:
        cost: of a pair: l2, the distance, or sqeuclidean, its square.
        epsilon: in units of the cost; small: straighter paths, but points that lie far from the others lose weight and
            fewer pairs count (`effective_share` in the metrics); .inf: all count alike. "auto": kappa sqrt(d) for l2,
            kappa d for sqeuclidean, d the values of a state, with which costs grow.
        kappa: factor of the automatic epsilon.
    """

    kind: Literal["gibbs_weighted"] = "gibbs_weighted"
    cost: Cost = "l2"
    epsilon: PositiveFloat | Literal["auto"] = "auto"
    kappa: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)


class GibbsWeighted(Coupling):
    """The independent coupling, its pairs weighted by the Gibbs kernel: one evaluation a pair, no problem to solve.

    The weights are those of an entropic transport plan between marginals that the kernel itself has tilted; as the
    batch grows this is flow matching on that plan.

    Source: "Weighted Conditional Flow Matching", arXiv 2507.22270.

    Args:
        cost: of a pair.
        epsilon: in units of the cost, above 0 or infinite; None: kappa times the cost's growth with the dimension.
        kappa: factor of the automatic epsilon.
    """

    def __init__(self, cost: Cost = "l2", epsilon: float | None = None, kappa: float = 1.0) -> None:
        self.cost: Cost = cost
        self.epsilon = epsilon
        self.kappa = kappa

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        """See `Coupling.draw`; the source is N(0, I), and row i goes with row i."""
        x_0 = standard_normal(x_1, x_0, generator)
        log_weight = pair_costs(x_0, x_1, self.cost) / -self._epsilon(x_1.shape[1:].numel())
        return Pairs(x_0, x_1, condition, log_weight)

    def _epsilon(self, num_values: int) -> float:
        if self.epsilon is not None:
            return self.epsilon
        return self.kappa * (math.sqrt(num_values) if self.cost == "l2" else num_values)
