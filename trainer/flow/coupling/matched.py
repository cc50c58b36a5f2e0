"""Couplings that choose source points for data points: by transport, by assignment, or among a few draws."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol

import torch
import torch.distributed as dist
from pydantic import Field, PositiveInt
from torch import Tensor

from moe.host_copies import to_device
from moe.ot.costs import spread
from moe.ot.sinkhorn import sinkhorn
from trainer.flow.condition import Condition, per_value
from trainer.flow.coupling.protocol import (
    BuiltIn,
    Cost,
    Coupling,
    Pairs,
    cost_matrix,
    gathered_rows,
    normal_sources,
    pair_costs,
    standard_normal,
)

Scope = Literal["micro_batch", "global_batch"]
Solver = Literal["exact", "sinkhorn", "unbalanced"]
Unit = Literal["spread", "mean", "absolute"]


class KNN(BuiltIn):
    """The nearest of k draws; meant for data of mean 0 and standard deviation 1 in many dimensions.

    x_0 is the draw of N(0, I) nearest to x_1, for each pair by itself, in the memory of two draws for any k. Along the
    data point the mean of such a source is nearly that of the largest of k normal numbers (1.03 for k = 4), small
    beside the norm sqrt(d), but not in few dimensions. Source points that are given are not selected. arXiv 2505.18521.

    Attributes:
        k: draws for each data point; 1 is the independent coupling.
    """

    kind: Literal["knn"] = "knn"
    k: PositiveInt = 4

    def sources(self, x_1: Tensor, x_0: Tensor | None, generator: torch.Generator) -> Tensor:
        nearest = super().sources(x_1, x_0, generator)
        if x_0 is not None or self.k == 1:
            return nearest
        least = pair_costs(nearest, x_1, "l2")
        for _ in range(self.k - 1):
            other = standard_normal(x_1, None, generator)
            distance = pair_costs(other, x_1, "l2")
            closer = per_value(distance < least, x_1)
            nearest = torch.where(closer, other, nearest)
            least = torch.minimum(least, distance)
        return nearest


class Match(NamedTuple):
    """Rows int64 [B] of the data points' source points, and log weights float32 [B], None if all weights are equal."""

    source_index: Tensor
    log_weight: Tensor | None = None


class Matching(Protocol):
    """A rule that decides the pairs; `weighs` says whether its matches have weights."""

    weighs: bool

    def __call__(self, x_0: Tensor, x_1: Tensor, generator: torch.Generator) -> Match:
        """Matches source points [B, F] with data points [B, F]; all draws are from the generator."""
        ...


class Matched(BuiltIn):
    """Data points keep their rows and conditions; a matching assigns source points N(0, I) to them.

    With scope global_batch the first rank solves one problem over all micro batches of all ranks, and broadcasts it.
    Source points are drawn micro batch by micro batch, so that the pairs do not depend on the number of ranks.
    """

    normal_source: ClassVar[bool] = True
    if TYPE_CHECKING:
        scope: Scope = "micro_batch"  # a field of the subclasses, last in their files

    @abstractmethod
    def matching(self) -> Matching:
        """Makes the rule that decides the pairs."""

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        x_0 = standard_normal(x_1, x_0, generator)
        source, log_weight = _agreed(self.matching(), x_0, x_1, generator, None)
        return Pairs(x_0[source], x_1, condition, log_weight)

    def draw_step(
        self,
        x_1: Sequence[Tensor],
        conditions: Sequence[Condition],
        *,
        generators: Sequence[torch.Generator],
        x_0: Sequence[Tensor | None] | None = None,
        ranks: dist.ProcessGroup | None = None,
    ) -> list[Pairs]:
        if self.scope == "micro_batch":
            return Coupling.draw_step(self, x_1, conditions, generators=generators, x_0=x_0, ranks=ranks)
        sources = torch.cat(normal_sources(x_1, x_0, generators))
        every_1, every_0 = gathered_rows(torch.cat(list(x_1)), ranks), gathered_rows(sources, ranks)
        source, log_weight = _agreed(self.matching(), every_0, every_1, generators[0], ranks)
        sizes = [len(data) for data in x_1]
        first = 0 if ranks is None else ranks.rank() * sum(sizes)
        places = torch.arange(first, first + sum(sizes), device=source.device).split(sizes)
        return [
            Pairs(every_0[source[rows]], data, condition, None if log_weight is None else log_weight[rows])
            for rows, data, condition in zip(places, x_1, conditions, strict=True)
        ]


class Assignment(Matched):
    """The linear assignment of source points to data points with the least sum of distances.

    Attributes:
        scope: points that are assigned together: of a micro batch, or of a whole step over all ranks.
    """

    kind: Literal["assignment"] = "assignment"
    scope: Scope = "micro_batch"

    def matching(self) -> Matching:
        return Permutation("l2")


class MinibatchOT(Matched):
    """Pairs from a transport plan between the source and data points of a batch.

    Attributes:
        solver: exact: the permutation of least cost; sinkhorn: a plan with entropy, from which pairs are drawn;
            unbalanced: a plan that may leave mass behind at a price, so that outliers are not forced together.
        cost: cost of a pair: sqeuclidean, the squared distance, or l2, the distance.
        epsilon: weight of the entropy in sinkhorn and unbalanced, in units of `unit`; small: nearer to exact, and more
            iterations.
        marginal_weight: price of the mass that unbalanced leaves behind, in units of `unit`.
        unit: unit of epsilon and marginal_weight. spread: for epsilon the standard deviation of a batch's costs about
            the means of their rows and columns, which is what pairs can gain by, in few dimensions as in many; for
            marginal_weight the standard deviation of the costs themselves. mean: the mean cost. absolute: the unit of
            the cost.
        scope: points that are paired together: of a micro batch, or of a whole step over all ranks.
    """

    kind: Literal["minibatch_ot"] = "minibatch_ot"
    solver: Solver = "exact"
    cost: Cost = "sqeuclidean"
    epsilon: float = Field(default=0.15, gt=0.0, allow_inf_nan=False)
    marginal_weight: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    unit: Unit = "spread"
    scope: Scope = "micro_batch"

    def matching(self) -> Matching:
        match self.solver:
            case "exact":
                return Permutation(self.cost)
            case "sinkhorn":
                return Entropic(self.cost, self.epsilon, unit=self.unit)
            case "unbalanced":
                return Entropic(self.cost, self.epsilon, self.marginal_weight, self.unit)


class Permutation(Matching):
    """A permutation of the source points with the least sum of costs; their distribution does not change.

    Distances: "Immiscible Diffusion", arXiv 2406.12303; their squares: Tong et al., arXiv 2302.00482.
    """

    weighs = False

    def __init__(self, cost: Cost) -> None:
        self.cost: Cost = cost

    def __call__(self, x_0: Tensor, x_1: Tensor, generator: torch.Generator) -> Match:  # noqa: ARG002
        from scipy.optimize import linear_sum_assignment  # a third of a second to import

        # |x_0 - x_1|^2 summed over a permutation is a constant less twice the sum of the products.
        costs = cost_matrix(x_1, x_0, "l2") if self.cost == "l2" else -(x_1.float() @ x_0.float().mT)
        _, source = linear_sum_assignment(costs.cpu().numpy())
        return Match(to_device(torch.from_numpy(source), x_1.device))


_TOLERANCE = 1e-2
"""Largest relative error of a source point's mass; each data point then draws from its whole column."""
_ROUNDING = 1e-5


class Entropic(Matching):
    """Every data point draws a source point from its column of an entropic plan, which samples the plan.

    With a finite price the plan may leave mass behind. The weight of a data point is then the mass of its column, which
    has the same expectation as drawing data points in proportion to that mass. Raises ValueError if epsilon or price is
    not above 0. Tong et al., arXiv 2302.00482, algorithm 3; unbalanced: Eyring et al., arXiv 2311.15100, section 4.
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
        log_plan = self.log_plan(x_0, x_1)
        drawn = torch.multinomial(log_plan.softmax(0).mT.to(generator.device), 1, generator=generator)[:, 0]
        return Match(to_device(drawn, x_1.device), log_plan.logsumexp(0) if self.weighs else None)

    def log_plan(self, x_0: Tensor, x_1: Tensor) -> Tensor:
        """Logarithms [N, M] of the plan between source points [N, F] and data points [M, F], each of mass 1."""
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
        """The cost that is the unit of epsilon, and the price of mass left behind in this unit."""
        tiny = torch.finfo(costs.dtype).tiny
        if self.unit != "spread":
            scale = (costs.mean() if self.unit == "mean" else torch.ones_like(costs[0, 0])).clamp_min(tiny)
            return scale, torch.full_like(scale, self.marginal_weight)
        deviation = costs.std(correction=0)
        # Below that it is rounding: no pairs are better than others.
        scale = torch.maximum(spread(costs), _ROUNDING * deviation).clamp_min(tiny)
        return scale, self.marginal_weight * torch.maximum(deviation, scale) / scale


def _agreed(
    matching: Matching, x_0: Tensor, x_1: Tensor, generator: torch.Generator, ranks: dist.ProcessGroup | None
) -> Match:
    """Computes the match on the first rank and returns it on every rank; collective."""
    if ranks is None or ranks.rank() == 0:
        match = matching(x_0.detach().flatten(1), x_1.detach().flatten(1), generator)
    else:
        source = torch.empty(len(x_1), dtype=torch.int64, device=x_1.device)
        match = Match(source, torch.empty(len(x_1), device=x_1.device) if matching.weighs else None)
    if ranks is not None:
        for values in match:
            if values is not None:
                dist.broadcast(values, group=ranks, group_src=0)
    return match
