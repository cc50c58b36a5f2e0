"""Source and data points of a batch are paired by optimal transport."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from moe.ot.sinkhorn import sinkhorn
from moe.validation.section import Section
from trainer.flow.coupling.assignment import Assignment
from trainer.flow.coupling.cost import Cost, cost_matrix
from trainer.flow.coupling.matched import Match, Matching, Scope

Solver = Literal["exact", "sinkhorn", "unbalanced"]


class MinibatchOTConfig(Section):
    """Pairs from a transport plan between the source and data points of a batch.

    Attributes:
        solver: exact: the permutation of least cost; sinkhorn: a plan with entropy, from which pairs are drawn;
            unbalanced: a plan that may leave mass behind at a price, so that outliers are not forced together.
        cost: of a pair: sqeuclidean, the squared distance, or l2.
        epsilon: strength of the entropy of sinkhorn and unbalanced, in units of the mean cost.
        marginal_weight: price of mass left behind by unbalanced, in units of the mean cost.
        scope: whose points are paired together: those of a micro batch, or of a whole step over all ranks.
    """

    kind: Literal["minibatch_ot"] = "minibatch_ot"
    solver: Solver = "exact"
    cost: Cost = "sqeuclidean"
    epsilon: float = Field(default=0.05, gt=0.0, allow_inf_nan=False)
    marginal_weight: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    scope: Scope = "micro_batch"


class Entropic(Matching):
    """Every data point draws a source point from its column of an entropic plan.

    That samples the plan with every data point once. Where the plan may leave mass behind, a data point weighs what its
    column holds, which in the mean over draws is the same as drawing data points by it.

    Source: Tong et al., "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport",
    arXiv 2302.00482, algorithm 3; unbalanced: Eyring et al., "Unbalancedness in Neural Monge Maps Improves Unpaired
    Domain Translation", arXiv 2311.15100, section 4.

    Args:
        cost: of a pair.
        epsilon: strength of the entropy, in units of the mean cost.
        marginal_weight: price of mass left behind, in units of the mean cost; infinite: none may be.
    """

    def __init__(self, cost: Cost, epsilon: float, marginal_weight: float = math.inf) -> None:
        self.cost: Cost = cost
        self.epsilon = epsilon
        self.marginal_weight = marginal_weight
        self.weighs = math.isfinite(marginal_weight)

    def __call__(self, x_0: Tensor, x_1: Tensor, generator: torch.Generator) -> Match:
        """See `Matching`."""
        log_plan = self.log_plan(x_0, x_1)
        drawn = torch.multinomial(log_plan.softmax(0).mT.to(generator.device), 1, generator=generator)[:, 0]
        return Match(drawn.to(x_1.device), log_plan.logsumexp(0) if self.weighs else None)

    def log_plan(self, x_0: Tensor, x_1: Tensor) -> Tensor:
        """Logarithms of the plan between source points [N, F] and data points [M, F] of mass 1 each, [N, M]."""
        costs = cost_matrix(x_0, x_1, self.cost)
        costs = costs / costs.mean().clamp_min(torch.finfo(costs.dtype).tiny)
        mass_0, mass_1 = costs.new_ones(len(x_0)), costs.new_ones(len(x_1))
        price = self.marginal_weight
        plan = sinkhorn(costs, mass_0, mass_1, epsilon=self.epsilon, row_weight=price, column_weight=price)
        f, g = plan.potentials
        return (f[:, None] + g - costs) / self.epsilon


def matching(config: MinibatchOTConfig) -> Matching:
    """How the configured solver pairs points."""
    match config.solver:
        case "exact":
            return Assignment(config.cost)
        case "sinkhorn":
            return Entropic(config.cost, config.epsilon)
        case "unbalanced":
            return Entropic(config.cost, config.epsilon, config.marginal_weight)
