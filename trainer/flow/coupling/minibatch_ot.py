"""Source and data points of a batch are paired by optimal transport."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from moe.host_copies import to_device
from moe.ot.costs import spread
from moe.ot.sinkhorn import sinkhorn
from netsim.foundation.settings import Section
from trainer.flow.coupling.assignment import Assignment
from trainer.flow.coupling.cost import Cost, cost_matrix
from trainer.flow.coupling.matched import Match, Matching, Scope

Solver = Literal["exact", "sinkhorn", "unbalanced"]
Unit = Literal["spread", "mean", "absolute"]


class MinibatchOTConfig(Section):
    """Pairs from a transport plan between the source and data points of a batch.

    Attributes:
        solver: exact: the permutation of least cost; sinkhorn: a plan with entropy, from which pairs are drawn;
            unbalanced: a plan that may leave mass behind at a price, so that outliers are not forced together.
        cost: of a pair: sqeuclidean, the squared distance, or l2.
        epsilon: strength of the entropy of sinkhorn and unbalanced; small: nearer to exact, and more iterations.
        marginal_weight: price of mass left behind by unbalanced.
        unit: of both. spread: for epsilon the standard deviation of a batch's costs about the means of their rows and
            columns, which is what pairs can gain by, in few dimensions as in many; for marginal_weight that of the
            costs themselves. mean: the mean cost. absolute: that of the cost.
        scope: whose points are paired together: those of a micro batch, or of a whole step over all ranks.
    """

    kind: Literal["minibatch_ot"] = "minibatch_ot"
    solver: Solver = "exact"
    cost: Cost = "sqeuclidean"
    epsilon: float = Field(default=0.15, gt=0.0, allow_inf_nan=False)
    marginal_weight: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    unit: Unit = "spread"
    scope: Scope = "micro_batch"


_TOLERANCE = 1e-2
"""Of the mass of a source point, before each data point draws from its whole column."""
_ROUNDING = 1e-5


class Entropic(Matching):
    """Every data point draws a source point from its column of an entropic plan.

    That samples the plan with every data point once. Where the plan may leave mass behind, a data point weighs what its
    column holds, which in the mean over draws is the same as drawing data points by it.

    Source: Tong et al., "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport",
    arXiv 2302.00482, algorithm 3; unbalanced: Eyring et al., "Unbalancedness in Neural Monge Maps Improves Unpaired
    Domain Translation", arXiv 2311.15100, section 4.

    Args:
        cost: of a pair.
        epsilon: strength of the entropy, above 0.
        marginal_weight: price of mass left behind, above 0; infinite: none may be.
        unit: of both, see `MinibatchOTConfig`.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(self, cost: Cost, epsilon: float, marginal_weight: float = math.inf, unit: Unit = "spread") -> None:
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon: not positive or not finite ({epsilon}); give about 0.15 of the spread of costs")
        if not marginal_weight > 0:
            raise ValueError(f"marginal_weight: not positive ({marginal_weight}); give a number above 0, or infinity")
        self.cost: Cost = cost
        self.epsilon = epsilon
        self.marginal_weight = marginal_weight
        self.unit: Unit = unit
        self.weighs = math.isfinite(marginal_weight)

    def __call__(self, x_0: Tensor, x_1: Tensor, generator: torch.Generator) -> Match:
        """See `Matching`."""
        log_plan = self.log_plan(x_0, x_1)
        drawn = torch.multinomial(log_plan.softmax(0).mT.to(generator.device), 1, generator=generator)[:, 0]
        return Match(to_device(drawn, x_1.device), log_plan.logsumexp(0) if self.weighs else None)

    def log_plan(self, x_0: Tensor, x_1: Tensor) -> Tensor:
        """Logarithms of the plan between source points [N, F] and data points [M, F] of mass 1 each, [N, M]."""
        costs = cost_matrix(x_0, x_1, self.cost)
        scale, price = self._scales(costs)
        # A cost common to all pairs changes nothing but the whole mass, which would vanish in many dimensions.
        common = costs.amin(0).median() / scale
        costs = costs / scale - common
        mass_0, mass_1 = costs.new_ones(len(x_0)), costs.new_ones(len(x_1))
        plan = sinkhorn(
            costs,
            mass_0,
            mass_1,
            epsilon=self.epsilon,
            row_weight=price,
            column_weight=price,
            warm_start=(mass_0, costs.mean(0) - costs.mean()),
            tolerance=_TOLERANCE,
        )
        f, g = plan.potentials
        return (f[:, None] + g - costs) / self.epsilon - common / (2 * price + self.epsilon)

    def _scales(self, costs: Tensor) -> tuple[Tensor, Tensor]:
        """The unit of epsilon in units of the cost, and the price in the unit of epsilon."""
        tiny = torch.finfo(costs.dtype).tiny
        if self.unit != "spread":
            scale = (costs.mean() if self.unit == "mean" else torch.ones_like(costs[0, 0])).clamp_min(tiny)
            return scale, torch.full_like(scale, self.marginal_weight)
        deviation = costs.std(correction=0)
        # Below that it is rounding: no pairs are better than others.
        scale = torch.maximum(spread(costs), _ROUNDING * deviation).clamp_min(tiny)
        return scale, self.marginal_weight * torch.maximum(deviation, scale) / scale


def matching(config: MinibatchOTConfig) -> Matching:
    """How the configured solver pairs points."""
    match config.solver:
        case "exact":
            return Assignment(config.cost)
        case "sinkhorn":
            return Entropic(config.cost, config.epsilon, unit=config.unit)
        case "unbalanced":
            return Entropic(config.cost, config.epsilon, config.marginal_weight, config.unit)
